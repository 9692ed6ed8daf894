"""How the segments of a network run: executors, the compute worker, batching, and what packing costs."""
