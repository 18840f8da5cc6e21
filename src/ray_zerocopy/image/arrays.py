"""numpy arrays as leaves of an image: the bytes an array spans are one block, views of one array overlap again.

Subclasses that leave pickling to numpy (`np.ma`, `np.matrix`, `np.recarray`, a user's own) are arrays with a class and
attributes of their own. Those that reduce themselves are left to do so.
"""

from __future__ import annotations

import copyreg
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_zerocopy import _engine
from ray_zerocopy.image import leaves
from ray_zerocopy.image.blocks import BlockTable, Span
from ray_zerocopy.image.image import Bytes

_HOOKS = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
_NUMPYS = (np.ndarray, np.ma.MaskedArray)
"""The classes whose own pickling does no more than keep the elements and what `vars` shows."""

_OF_FILES = ("_mmap", "filename", "offset", "mode")
"""What `np.memmap` adds to an array: it means nothing to another process, and a mapping cannot be pickled."""


def is_shareable(cls: type[npt.NDArray[Any]]) -> bool:
    """Whether an array of this class is its elements and its `vars`."""
    if cls is np.ndarray or cls is np.memmap:
        return True
    return (
        not issubclass(cls, np.memmap)
        and all(any(_hook(cls, name) is _hook(known, name) for known in _NUMPYS) for name in _HOOKS)
        and cls not in copyreg.dispatch_table
        and not copyreg._slotnames(cls)  # type: ignore[attr-defined]
    )


def _hook(cls: type, name: str) -> Any:
    return getattr(cls, name, None)


def reduce_array(array: npt.NDArray[Any], blocks: BlockTable) -> tuple[Any, ...] | None:
    """A reduction (as of `object.__reduce_ex__`) of an array of a shareable class.

    None for an array of Python objects: it has no bytes.
    """
    if array.dtype.hasobject:
        return None
    cls = type(array)
    plain = np.ndarray.view(array, np.ndarray)
    address, nbytes, below = _reach(plain)
    block = blocks.add(address, nbytes, plain, host=True)
    form = (block, below, plain.shape, plain.strides, plain.dtype, plain.flags.writeable)
    if cls is np.ndarray or cls is np.memmap:
        return leaves.array, form
    return leaves.array, (*form, cls), _attributes(array) or None, None, None, _set_attributes


def _attributes(array: npt.NDArray[Any]) -> dict[str, Any]:
    attributes = dict(getattr(array, "__dict__", {}))
    if isinstance(array, np.ma.MaskedArray) and issubclass(array.baseclass, np.memmap):
        attributes = _less_file(attributes) | {
            "_baseclass": np.ndarray,
            "_optinfo": _less_file(attributes["_optinfo"]),
            "_basedict": _less_file(attributes["_basedict"]),
        }
    return attributes


def _less_file(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in _OF_FILES}


def _set_attributes(array: npt.NDArray[Any], attributes: dict[str, Any]) -> None:
    vars(array).update(attributes)


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
    cls: type[npt.NDArray[Any]] = np.ndarray,
) -> npt.NDArray[Any]:
    """The array of this shape whose first element lies `offset` bytes into `memory`; it keeps `memory` alive.

    A subclass is made as numpy's own unpickling makes it: by `numpy.ndarray.__new__`, not by the class's.

    Raises:
        ValueError: the memory does not reach that far, or the elements would be objects.
    """
    # Before numpy, which takes negative offsets, and bytes for the addresses of objects.
    _engine.check_array(memory.nbytes, dtype.itemsize, offset, shape, strides, 1)
    if dtype.hasobject:
        raise ValueError(f"An array of Python objects has no bytes to lie in: its dtype is {dtype}.")
    array: npt.NDArray[Any] = np.ndarray.__new__(cls, shape, dtype, buffer=memory, offset=offset, strides=strides)
    array.flags.writeable = writeable
    return array
