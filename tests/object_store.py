"""What Ray says of the node's object store, and waiting for it: Ray frees and reports in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray


def store_in_use() -> int:
    """Bytes in use in the node's object store, by the raylet's own count."""
    total = ray.cluster_resources()["object_store_memory"]
    return int(total - ray.available_resources().get("object_store_memory", 0))


def store_is_empty() -> bool:
    """Whether nothing is in the store but small objects: arguments, results, references."""
    return store_in_use() < 1 << 20


def bytes_put() -> int:
    """Bytes of all objects that were ever put into this node's store: their rise is more than the store's peak."""
    from ray._private import internal_api  # there is no public way to ask the raylet itself

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(internal_api.get_memory_info_reply(state).store_stats.cumulative_created_bytes)


def until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether `condition` comes true within a bound."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
