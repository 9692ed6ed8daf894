"""Running the segments of a network: executors, the compute worker, batching, and codec costs."""
