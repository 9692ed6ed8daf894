"""Queues of inference tasks: drawn or read, planned, pipelined."""
