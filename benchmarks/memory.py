"""What Linux says of the memory of processes."""

from __future__ import annotations

import gc
from pathlib import Path

KB = 1024


def _rollup(process: int | str = "self") -> dict[str, int]:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) * KB for name, rest in (line.split(":") for line in lines)}


def private_bytes() -> int:
    """Memory that is this process's alone (USS): what would be free again if it ended."""
    gc.collect()
    return sum(nbytes for name, nbytes in _rollup().items() if name.startswith("Private_"))


def anonymous_bytes() -> int:
    """Memory of this process that no file is behind: its heap, and the pages of files that it made its own."""
    gc.collect()
    return _rollup()["Anonymous"]


def bytes_beside_store(process: int) -> int:
    """A process's share of the memory in use (PSS), less shared memory: Ray's object store is counted by itself."""
    rollup = _rollup(process)
    return rollup["Pss_Anon"] + rollup["Pss_File"]


def private_bytes_beside_store() -> int:
    """As `private_bytes`, less what is mapped `MAP_SHARED`.

    Linux counts a page of a shared file as private to the only process that has it mapped: an object in Ray's store,
    to the driver that put it there, until a worker reads it.
    """
    gc.collect()
    total, is_shared = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            is_shared = rest[0].endswith("s")
        elif first.startswith("Private_") and not is_shared:
            total += int(rest[0]) * KB
    return total


def available_bytes() -> int:
    """Memory that new programs could have without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * KB for line in lines if line.startswith("MemAvailable:"))
