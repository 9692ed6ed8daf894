"""Experiments: emulated links, and in time whole sweeps."""
