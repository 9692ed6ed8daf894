"""Experiments: devices, links and cuts through the real programs, on links that are shaped; and reports of them."""
