"""What is to run: declarations, scales, options, the plan of a study; imports no torch at load."""
