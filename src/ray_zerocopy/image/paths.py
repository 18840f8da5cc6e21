"""Paths within a pipeline, as a programmer would write them: `pipeline.stages['a'][0].lock`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_zerocopy.image.compiled_functions import is_compiled_function
from ray_zerocopy.image.exported import UNREADABLE

_LEAVES = (str, bytes, int, float, complex, type(None), type, torch.Tensor, np.ndarray, torch.jit.ScriptModule)


def children(obj: Any) -> Iterator[tuple[str, Any]]:
    """What `obj` holds, each with the suffix that leads to it; modules' tensors and submodules by their names."""
    if isinstance(obj, _LEAVES) or type(obj).__name__ == UNREADABLE or is_compiled_function(obj):
        return
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            yield f"[{key!r}]", value
    elif isinstance(obj, (list, tuple)):
        for index, value in enumerate(obj):
            yield f"[{index}]", value
    for name, value in _attributes(obj):
        if isinstance(obj, nn.Module) and name in ("_parameters", "_buffers", "_modules"):
            for key, inner in value.items():
                yield (f"[{key}]" if key.isdigit() else f".{key}"), inner
        else:
            yield f".{name}", value


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(obj, "__dict__", {}).items())
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(obj, name):
                yield name, getattr(obj, name)


def find(root: Any, wanted: Iterable[Any], name: str) -> dict[int, str]:
    """Shortest paths from `root` (called `name`) to each of `wanted`, by `id`; what is not reached is missing."""
    missing = {id(obj) for obj in wanted}
    found: dict[int, str] = {}
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [(name, root)]
    while level and missing:
        following: list[tuple[str, Any]] = []
        for path, obj in level:
            if id(obj) in seen:
                continue
            seen.add(id(obj))
            if id(obj) in missing:
                missing.discard(id(obj))
                found[id(obj)] = path
            following.extend((path + suffix, child) for suffix, child in children(obj))
        level = following
    return found


def deepest_failing(root: Any, name: str, fails: Callable[[Any], Exception | None]) -> tuple[str, Exception | None]:
    """The path to the innermost object below `root` for which `fails` gives an exception, and that exception."""
    error = fails(root)
    path, obj, above = name, root, {id(root)}
    while True:
        for suffix, child in children(obj):
            if id(child) in above:
                continue
            inner = fails(child)
            if inner is not None:
                path, obj, error = path + suffix, child, inner
                above.add(id(child))
                break
        else:
            return path, error
