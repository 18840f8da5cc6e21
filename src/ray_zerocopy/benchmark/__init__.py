"""0.2.0's helpers for measuring memory; `memory_stats` and `python -m ray_zerocopy top` are the present ones."""

from ray_zerocopy.benchmark.monitor import (
    estimate_model_size_mb,
    get_memory_mb,
    log_memory,
    monitor_memory,
    monitor_memory_context,
)

__all__ = [
    "estimate_model_size_mb",
    "get_memory_mb",
    "log_memory",
    "monitor_memory",
    "monitor_memory_context",
]
