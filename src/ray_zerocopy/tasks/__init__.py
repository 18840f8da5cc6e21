"""Models that run as Ray tasks: what stands for one in the caller, and what a worker keeps of it between calls."""
