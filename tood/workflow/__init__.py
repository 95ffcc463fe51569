"""What the rules of `workflow/` decide, and what a call of them does before and after its jobs."""
