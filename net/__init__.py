"""The network: frames, messages, connections, codecs, and the link estimate."""
