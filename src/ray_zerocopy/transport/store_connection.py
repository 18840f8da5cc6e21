"""A driver's connection to its node's object store, held open for as long as weights need it.

Ray pins an object for a connection, and `ray.shutdown()` closes the connection. In a cluster that goes on, the store
then puts other objects in the place of weights that the driver still has mapped. The store sees a connection end when
the last descriptor of its socket is closed: a duplicate of the driver's descriptor keeps all its pins.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import stat
import weakref
from pathlib import Path

import ray


class StoreConnection:
    """Duplicates of one connection's descriptors. They are never used, and closed when this object goes."""

    def __init__(self, descriptors: dict[int, int]) -> None:
        self._descriptors = descriptors

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    @property
    def sockets(self) -> set[int]:
        """The inodes of the sockets."""
        return set(self._descriptors)


_held: weakref.WeakValueDictionary[str, StoreConnection] = weakref.WeakValueDictionary()
"""By the identifier that this driver had in the connection."""


def outlives_ray() -> bool:
    """Whether this process is connected to Ray, and goes on after `ray.shutdown()`.

    A driver does; a worker, whose parent is its raylet, ends with it.
    """
    with contextlib.suppress(OSError):  # the parent cannot be seen from here: a raylet could be
        if Path(f"/proc/{os.getppid()}/comm").read_text() == "raylet\n":
            return False
    return ray.is_initialized()


def hold() -> StoreConnection | None:
    """Hold this driver's present connection open until the result is gone; None if its sockets are not found."""
    context = ray.get_runtime_context()
    driver = context.get_worker_id()
    held = _held.get(driver)
    if held is None:
        earlier = set[int]().union(*(connection.sockets for connection in list(_held.values())))
        descriptors = _duplicates(_store_names(context.get_node_id()), earlier)
        if not descriptors:
            return None
        held = _held[driver] = StoreConnection(descriptors)
    return held


@functools.lru_cache(maxsize=1)
def _store_names(node: str) -> frozenset[str]:
    """The address of a node's object store."""
    return frozenset(found["ObjectStoreSocketName"] for found in ray.nodes() if found["NodeID"] == node)


def _duplicates(peers: frozenset[str], left_out: set[int]) -> dict[int, int]:
    """A new descriptor of each socket of this process that is connected to one of the peers, by the socket's inode."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or a socket that is not connected
            status = os.fstat(int(entry))
            if stat.S_ISSOCK(status.st_mode) and status.st_ino not in left_out and status.st_ino not in found:
                with socket.socket(fileno=os.dup(int(entry))) as connection:
                    if connection.family == socket.AF_UNIX and connection.getpeername() in peers:
                        found[status.st_ino] = connection.detach()
    return found
