"""What strangers can do to a cloud; `python -m benchmarks.hostile` measures it."""
