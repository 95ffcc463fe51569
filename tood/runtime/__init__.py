"""What a process needs while it runs; nothing here decides a result."""
