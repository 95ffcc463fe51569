"""Training one run: configuration, gradient, schedule, checkpoints."""
