"""Attacks of untrusted clients on a cloud; `python -m benchmarks.hostile` measures it."""
