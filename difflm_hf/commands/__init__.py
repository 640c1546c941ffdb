"""The command `difflm`, one file for each of its commands."""
