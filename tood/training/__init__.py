"""Building a declared run and training it."""
