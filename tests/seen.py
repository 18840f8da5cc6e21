"""What workers are asked of the models that they have loaded."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

import ray_zerocopy
from ray_zerocopy import MemoryStats

BYTES = 5 * 2048 * 2048 * 4
"""Of the weights of `large`: 84 MB."""


def large() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(5))).eval().requires_grad_(False)


class Smaps(NamedTuple):
    """What the kernel says of a mapping, in bytes."""

    size: int
    resident: int
    private_dirty: int


def smaps_of(model: nn.Module) -> Smaps:
    """Of the mapping that the model's first weight lies in."""
    address = next(model.parameters()).data_ptr()
    found: dict[str, int] = {}
    is_it = False
    with open("/proc/self/smaps") as maps:
        for line in maps:
            first, *rest = line.split()
            if not first.endswith(":"):
                low, high = (int(part, 16) for part in first.split("-"))
                is_it = low <= address < high
            elif is_it and rest[-1] == "kB":
                found[first] = int(rest[0]) * 1024
    return Smaps(found["Size:"], found["Rss:"], found["Private_Dirty:"])


def look(model: Any) -> tuple[MemoryStats, Smaps]:
    model(torch.zeros(1, 2048))  # every weight is read
    return ray_zerocopy.memory_stats(), smaps_of(model)


def stats(_: Any) -> MemoryStats:
    return ray_zerocopy.memory_stats()


def write_10_mb(model: nn.Module) -> None:
    next(model.parameters()).view(-1)[: 10_000_000 // 4] = 1
