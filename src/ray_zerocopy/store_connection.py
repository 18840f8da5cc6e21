"""A driver's connection to its node's object store, held open for as long as weights need it.

Ray pins an object for a connection, and `ray.shutdown()` closes the connection. In a cluster that goes on, the store then
puts other objects into the place of weights that the driver still has mapped. The store sees a connection end when its
last descriptor is closed: a duplicate of the driver's keeps all its pins.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import weakref
from pathlib import Path

import ray


class StoreConnection:
    """Duplicates of the descriptors of one connection; they are closed with this object, and never used."""

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors

    def __del__(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def sockets(self) -> set[int]:
        """The inodes of the sockets."""
        return {os.fstat(descriptor).st_ino for descriptor in self._descriptors}


_held: weakref.WeakValueDictionary[str, StoreConnection] = weakref.WeakValueDictionary()
"""By the identifier that the driver had in that connection."""


def may_outlast_ray() -> bool:
    """Whether this process may go on after `ray.shutdown()`: a driver does, a worker ends with its raylet."""
    try:
        return ray.is_initialized() and Path(f"/proc/{os.getppid()}/comm").read_text().strip() != "raylet"
    except OSError:
        return True


def hold() -> StoreConnection | None:
    """The present connection of this driver, held open until the result is gone; None if its sockets are not found."""
    context = ray.get_runtime_context()
    held = _held.get(context.get_worker_id())
    if held is None:
        names = {node["ObjectStoreSocketName"] for node in ray.nodes() if node["NodeID"] == context.get_node_id()}
        descriptors = _duplicates(names, set().union(*(earlier.sockets() for earlier in list(_held.values()))))
        held = StoreConnection(descriptors) if descriptors else None
        if held is not None:
            _held[context.get_worker_id()] = held
    return held


def _duplicates(peers: set[str], left_out: set[int]) -> list[int]:
    """A new descriptor for each socket of this process whose peer has one of the names, but for some inodes."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            status = os.fstat(int(entry))
            if not stat.S_ISSOCK(status.st_mode) or status.st_ino in left_out or status.st_ino in found:
                continue
            with socket.socket(fileno=os.dup(int(entry))) as connection:
                if connection.family == socket.AF_UNIX and connection.getpeername() in peers:
                    found[status.st_ino] = connection.detach()
    return list(found.values())
