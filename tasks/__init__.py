"""Queues of inference tasks: generated or read, planned, pipelined."""
