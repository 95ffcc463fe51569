"""Our code against named peers, in one process on the same weights and inputs: `python -m benchmarks`."""
