"""The leaves of an image, by the names that skeletons call them by.

A pickled skeleton has a call of one of these in each leaf's place. They are looked up while it is unpickled, and found
to be methods of the memory that it is thawed into (`ray_zerocopy.image.thawing`); by themselves they have no memory.
"""

from __future__ import annotations

import pickle
from typing import Any, NoReturn


def storage(block: int, nbytes: int) -> Any:
    """The `torch.UntypedStorage` over a block of `nbytes` bytes: the same one each time."""
    _refuse()


def typed_storage(untyped: Any, dtype: Any) -> Any:
    """A `torch.storage.TypedStorage` around another storage."""
    _refuse()


def meta_storage(nbytes: int) -> Any:
    """A storage without memory."""
    _refuse()


def tensor(cls: type, block: int, dtype: Any, offset: int, shape: Any, stride: Any, requires_grad: bool) -> Any:
    """A tensor of class `cls` over a block; `offset` and `stride` in elements."""
    _refuse()


def whole_tensor(cls: type, block: int, dtype: Any, shape: Any, requires_grad: bool) -> Any:
    """A contiguous tensor of class `cls` over all of a block."""
    _refuse()


def array(block: int, offset: int, shape: Any, strides: Any, dtype: Any, writeable: bool, cls: Any = None) -> Any:
    """A `numpy.ndarray` in a block, of class `cls` if that is given; `offset` and `strides` in bytes."""
    _refuse()


def external(number: int) -> Any:
    """One of `Image.externals`."""
    _refuse()


def script(number: int) -> Any:
    """One of the image's TorchScript modules."""
    _refuse()


def program(cls: type, number: int, constants: Any) -> Any:
    """A compiled program of class `cls`, made of one of `Image.packages` and its constants."""
    _refuse()


def _refuse() -> NoReturn:
    raise pickle.UnpicklingError("A skeleton can only be unpickled by ray_zerocopy.image.thaw.")
