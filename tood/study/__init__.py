"""What a study is and how it stands: declarations, plan, provenance, tables; imports no torch at load."""
