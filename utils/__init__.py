"""Small shared helpers: errors, units, timing, output."""
