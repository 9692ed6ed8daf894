"""Experiments: devices, shaped links and cuts with the real programs, and reports of them."""
