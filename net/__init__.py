"""How tensors travel: frames, messages, connections, and what the link is like."""
