"""The interface of 0.2.0: see `ray_zerocopy.older.published.benchmark`."""

from ray_zerocopy.older.published.benchmark import (
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
