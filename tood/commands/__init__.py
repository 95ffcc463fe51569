"""What the `tood` command does, a file for each subcommand."""
