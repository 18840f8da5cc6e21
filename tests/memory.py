"""What the operating system says of memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def private_bytes() -> int:
    """Bytes of memory that are this process's alone (USS): `Private_*` of `/proc/self/smaps_rollup`."""
    gc.collect()
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Private_"))


def own_bytes(pid: int | str = "self") -> int:
    """As `private_bytes`, of any process, less what is mapped from shared files.

    Linux counts a page of a shared file as private to the only process that has it mapped: so it counts an object in
    Ray's store to the driver that put it there, until a worker reads it.
    """
    gc.collect()
    total, is_shared = 0, False
    with open(f"/proc/{pid}/smaps") as maps:
        for line in maps:
            first, *rest = line.split()
            if not first.endswith(":"):
                is_shared = rest[0].endswith("s")
            elif first.startswith("Private_") and not is_shared:
                total += int(rest[0]) * 1024
    return total


def give_back_free_memory(_: Any) -> None:
    """What was freed, but the C library keeps for later: of TorchScript's compiler, 1.5 % of BERT's size."""
    ctypes.CDLL(None).malloc_trim(0)


def tensors_of(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all the model's storages, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_of(model)}.values())


def file_behind_weights(model: Any) -> tuple[str, int, int]:
    """The device, inode and offset in the file that a model's first parameter is mapped from."""
    address = next(model.parameters()).data_ptr()
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, offset, device, inode = line.split()[:5]
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                return device, int(inode), int(offset, 16) + address - low
    raise AssertionError("mapped nowhere")


def bits(value: Any) -> bytes:
    """The exact bits of a dense tensor's or an array's elements."""
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg().contiguous().view(-1)
        return bytes(value.view(torch.uint8).numpy().data) if value.numel() else b""
    return np.ascontiguousarray(value).tobytes()
