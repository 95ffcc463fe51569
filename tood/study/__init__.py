"""What a study is and how it stands: declarations, plan, provenance, tables. Nothing here imports torch at load."""
