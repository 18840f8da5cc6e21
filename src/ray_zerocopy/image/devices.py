"""The devices that a user may name, and those that a worker has."""

from __future__ import annotations

from typing import Any

import torch

Device = torch.device | str | int


def checked(device: Device | None) -> torch.device | None:
    """`device` as torch understands it.

    Raises:
        ValueError: torch does not understand it; the message names it.
    """
    if device is None:
        return None
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{device!r} is not a device: torch.device() says: {str(error).splitlines()[0]}") from error


def present(device: Device | None) -> torch.device | None:
    """`device`, which this process must have.

    Raises:
        ValueError: as `checked`.
        RuntimeError: this process has no such device; the message says which it has.
    """
    target = checked(device)
    if target is None or target.type in ("cpu", "meta"):
        return target
    if (target.index or 0) >= _count(target.type):
        names = ["cpu", *(f"{kind}:{i}" for kind in ("cuda", "xpu", "mps") for i in range(_count(kind)))]
        raise RuntimeError(
            f"Device {str(target)!r} is not here: this process has {', '.join(names)}. "
            "Load onto another device, or, in a worker of Ray's, ask Ray for it (for example num_gpus=1)."
        )
    return target


def _count(kind: str) -> int:
    module: Any = getattr(torch, kind, None)
    if module is None or not hasattr(module, "is_available") or not module.is_available():
        return 0
    return int(module.device_count()) if hasattr(module, "device_count") else 1
