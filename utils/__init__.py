"""Small and shared: errors, units, timing, the command line."""
