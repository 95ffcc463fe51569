"""The compared methods: mathematics and head of one method per file."""
