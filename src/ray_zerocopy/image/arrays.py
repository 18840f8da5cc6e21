"""numpy arrays as leaves of an image: the bytes an array spans are one block, views of one array overlap again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ray_zerocopy.image.blocks import BlockTable
from ray_zerocopy.image.image import Bytes

ARRAYS = (np.ndarray, np.memmap)
"""The exact types handled here; other subclasses pickle themselves."""


class ArrayCollector:
    """Gives each array its block and its number: an array met twice is one array again after thaw."""

    def __init__(self, blocks: BlockTable) -> None:
        self._blocks = blocks
        self._seen: dict[int, tuple[npt.NDArray[Any], tuple[Any, ...]]] = {}

    def persistent_id(self, array: npt.NDArray[Any]) -> tuple[Any, ...] | None:
        """What stands for `array` in a skeleton; None for arrays of Python objects: they have no bytes."""
        if array.dtype.hasobject:
            return None
        seen = self._seen.get(id(array))
        if seen is not None:
            return seen[1]
        below, above = _reach(array)
        block = self._blocks.add(array.__array_interface__["data"][0] - below, below + above, array)
        pid = ("array", len(self._seen), block, below, array.shape, array.strides, array.dtype, array.flags.writeable)
        self._seen[id(array)] = (array, pid)
        return pid


def _reach(array: npt.NDArray[Any]) -> tuple[int, int]:
    """How many bytes the array's elements take below the first one's address, and from it upwards."""
    if array.size == 0:
        return 0, 0
    steps = [(length - 1) * stride for length, stride in zip(array.shape, array.strides, strict=True)]
    return -sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + array.itemsize


def array_in(
    memory: Bytes,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    writeable: bool,
) -> npt.NDArray[Any]:
    """The array of this shape whose first element lies `offset` bytes into `memory`; it keeps `memory` alive."""
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=memory, offset=offset, strides=strides)
    array.flags.writeable = writeable
    return array
