"""What was run, and whether it still stands: provenance, digests of code, records, status."""
