"""A study: declarations, plan, provenance, status, tables; imports no torch at load."""
