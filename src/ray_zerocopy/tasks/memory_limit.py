"""How much memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_UNKNOWN = 8 << 30
"""Bytes assumed where the operating system does not tell."""


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or less if a control group (cgroup) limits it.

    Groups limit what is below them, so the least of all limits from this process's group upwards holds. Both versions
    of control groups are read, as cgroups(7) describes them.

    Args:
        root: the directory that `proc` and `sys` are in.
    """
    limits = [_machine(), *_of_control_groups(root)]
    return min(limits)


def _machine() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return _UNKNOWN


def _of_control_groups(root: Path) -> Iterator[int]:
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        # A container often sees its own group at the top, whatever path it is told.
        for group in {own, *own.parents, PurePosixPath()}:
            try:
                text = (base / group / name).read_text()
            except OSError:
                continue
            if text.strip().isdigit():  # not "max"
                yield int(text)
