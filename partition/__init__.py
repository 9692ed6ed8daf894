"""Where to cut. Pure: no torch, no socket, no clock, no file."""
