"""The command line: flags, settings, output for people and JSON for programs."""
