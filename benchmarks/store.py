"""The object store of this process's cluster."""

from __future__ import annotations

import time

import numpy as np
import ray

_SETTLED = 1 << 20


def used_bytes() -> int:
    """Bytes of objects in the store, as Ray last reported them: up to a quarter of a second ago."""
    resource = "object_store_memory"
    return int(ray.cluster_resources()[resource] - ray.available_resources().get(resource, 0))


def settled_bytes(seconds: float = 0.7) -> int:
    """As `used_bytes`, once reports made after this call began have come in."""
    time.sleep(seconds)
    return used_bytes()


def touch_all() -> None:
    """Fill the store once, and empty it: from now on none of its pages is new to the kernel, whichever Ray picks."""
    nothing = np.zeros(int(0.95 * ray.cluster_resources()["object_store_memory"]), np.uint8)
    ray.put(nothing)
    wait_until_empty()


def wait_until_empty(seconds: float = 10) -> None:
    """Wait until what was let go is gone: Ray deletes objects in the background.

    Raises:
        TimeoutError: something is still there.
    """
    deadline = time.monotonic() + seconds
    while settled_bytes(0.4) > _SETTLED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{used_bytes()} bytes are still in the object store after {seconds} s")
