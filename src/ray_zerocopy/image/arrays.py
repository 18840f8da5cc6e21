"""numpy arrays as leaves of an image: the bytes an array spans are one block, views of one array overlap again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ray_zerocopy.image import leaves
from ray_zerocopy.image.blocks import BlockTable, Span
from ray_zerocopy.image.image import Bytes

ARRAYS = (np.ndarray, np.memmap)
"""The exact types handled here; other subclasses pickle themselves."""


def reduce_array(array: npt.NDArray[Any], blocks: BlockTable) -> tuple[Any, ...] | None:
    """A reduction (as of `object.__reduce_ex__`) of an array; None for those of Python objects: they have no bytes."""
    if array.dtype.hasobject:
        return None
    address, nbytes, below = _reach(array)
    block = blocks.add(address, nbytes, array)
    return leaves.array, (block, below, array.shape, array.strides, array.dtype, array.flags.writeable)


def span_of(array: npt.NDArray[Any]) -> tuple[Bytes, int]:
    """All bytes from an array's lowest element to its highest, read-only, and how far into them its first element is.

    Keeps the array alive.
    """
    address, nbytes, below = _reach(array)
    return np.asarray(Span(address, nbytes, [array])), below


def memory_of(array: npt.NDArray[Any]) -> tuple[int, int]:
    """The lowest address of an array's elements, and how many bytes they span."""
    address, nbytes, _ = _reach(array)
    return address, nbytes


def _reach(array: npt.NDArray[Any]) -> tuple[int, int, int]:
    """The lowest address of the array's elements, the bytes they span, and how far above the first element is."""
    first = array.__array_interface__["data"][0]
    if array.size == 0:
        return first, 0, 0
    steps = [(length - 1) * stride for length, stride in zip(array.shape, array.strides, strict=True)]
    below = -sum(step for step in steps if step < 0)
    return first - below, below + sum(step for step in steps if step > 0) + array.itemsize, below


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
