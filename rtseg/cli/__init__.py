"""The command line: `rtseg`, one file a group of commands."""
