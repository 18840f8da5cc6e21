"""Tensors as leaves of an image: their storages become blocks, and tensors are put together around them again.

torch reduces every tensor (tied, viewed, quantized, of a subclass) to storages, the protocol of `torch.save`,
so that catching storages catches all of them. Plain tensors, nearly all there are, are reduced here, to load faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._tensor import _rebuild_from_type_v2
from torch._utils import _rebuild_sparse_tensor, _rebuild_tensor_v3

from ray_zerocopy import _engine
from ray_zerocopy.image import leaves
from ray_zerocopy.image.blocks import BlockTable

STORAGES = (torch.UntypedStorage, torch.storage.TypedStorage)

DLPACK_TYPES = {
    torch.bool: (6, 8),
    torch.uint8: (1, 8),
    torch.int8: (0, 8),
    torch.int16: (0, 16),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
    torch.float16: (2, 16),
    torch.bfloat16: (4, 16),
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.complex64: (5, 64),
    torch.complex128: (5, 128),
}
"""Code and bits (`DLDataType` of DLPack) of the dtypes that every torch takes from a capsule."""


class StorageCollector:
    """Gives each storage its block; a storage on another device is brought to the host, once."""

    def __init__(self, blocks: BlockTable) -> None:
        self._blocks = blocks
        self._on_host: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def reduce(self, storage: torch.UntypedStorage | torch.storage.TypedStorage) -> tuple[Any, ...]:
        """A reduction (as of `object.__reduce_ex__`) of a storage to its block."""
        if isinstance(storage, torch.storage.TypedStorage):
            return leaves.typed_storage, (storage._untyped_storage, storage.dtype)
        if storage.device.type == "meta":
            return leaves.meta_storage, (storage.nbytes(),)
        return leaves.storage, (self.block(storage), storage.nbytes())

    def reduce_tensor(self, tensor: torch.Tensor) -> tuple[Any, ...] | None:
        """As `reduce_tensor`, plain ones by their block."""
        if not is_plain(tensor):
            return _reduce_mended(tensor)
        block = self.block(tensor.untyped_storage())
        dtype, offset, shape, stride, requires_grad = form = form_of(tensor)
        if offset == 0 and 0 < tensor.nbytes == self._blocks.nbytes(block) and stride == contiguous_stride(shape):
            return leaves.whole_tensor, (type(tensor), block, dtype, shape, requires_grad)
        return leaves.tensor, (type(tensor), block, *form)

    def block(self, storage: torch.UntypedStorage) -> int:
        """The number of a storage's block."""
        if storage.device.type != "cpu":
            # The original is kept beside its copy, so that its key is not taken by another storage meanwhile.
            storage = self._on_host.setdefault(storage._cdata, (storage, storage.cpu()))[1]
        return self._blocks.add(storage.data_ptr(), storage.nbytes(), storage)

    def find(self, storage: torch.UntypedStorage) -> int | None:
        """The number that a storage's block has; None: it has none."""
        if storage.device.type != "cpu":
            if storage._cdata not in self._on_host:
                return None
            storage = self._on_host[storage._cdata][1]
        return self._blocks.find(storage.data_ptr(), storage.nbytes())


def reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """A reduction (as of `object.__reduce_ex__`) of tensors that are plain, or whose own needs `torch.load` around it.

    None for all others: quantized, nested, conjugated, of most subclasses.
    """
    if is_plain(tensor):
        return tensor_in, (tensor.untyped_storage(), type(tensor), *form_of(tensor))
    return _reduce_mended(tensor)


Form: TypeAlias = tuple[torch.dtype, int, tuple[int, ...], tuple[int, ...], bool]
"""What a plain tensor is besides its class and its storage: dtype, offset, shape, stride, whether it requires grad."""


def form_of(tensor: torch.Tensor) -> Form:
    """The form of a plain tensor."""
    return tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.requires_grad


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stride, in elements, of a new tensor of this shape."""
    stride = [1]
    for length in reversed(shape[1:]):
        stride.append(stride[-1] * length)
    return tuple(reversed(stride)) if shape else ()


def tensor_in(
    storage: torch.UntypedStorage,
    cls: type[torch.Tensor],
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
) -> torch.Tensor:
    """A tensor of this form around a storage; `cls` is `torch.Tensor` or `torch.nn.Parameter`.

    Raises:
        ValueError: the storage does not reach that far.
    """
    # Before torch, which would resize a storage that it can resize.
    _engine.check_array(storage.nbytes(), dtype.itemsize, offset, shape, stride, dtype.itemsize)
    tensor = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride)
    if cls is not torch.Tensor:
        # What nn.Parameter ends in for a plain tensor, without the questions that it asks before.
        return torch.Tensor._make_subclass(cls, tensor, requires_grad)
    return tensor.requires_grad_() if requires_grad else tensor


def _reduce_mended(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    if tensor.layout is torch.strided and tensor.dtype not in _UNTYPED:
        return None
    reduced = tensor.__reduce_ex__(2)
    if reduced[0] is _rebuild_from_type_v2:  # a subclass, or a tensor with attributes of its own
        function, cls, arguments, state = reduced[1]
        return _rebuild_from_type_v2, (*_mended(tensor, function, cls, arguments), state)
    function, arguments = reduced[:2]
    function, _, arguments = _mended(tensor, function, type(tensor), arguments)
    return function, arguments


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is its class, its storage and its form, and nothing else."""
    return is_elements(tensor) and not tensor.__dict__ and not tensor._backward_hooks


def is_elements(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values are the elements that lie in its storage, as its form says."""
    cls = type(tensor)
    return (
        (cls is torch.Tensor or cls is nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
        and not tensor._is_zerotensor()
    )


_UNTYPED = torch.storage._new_dtypes() if hasattr(torch.storage, "_new_dtypes") else set()
"""Dtypes without a storage class of their own (float8, unsigned integers, ...)."""


def _mended(
    tensor: torch.Tensor, function: Callable[..., torch.Tensor], cls: type, arguments: tuple[Any, ...]
) -> tuple[Callable[..., torch.Tensor], type, tuple[Any, ...]]:
    if function is _rebuild_sparse_tensor:
        return _rebuild_sparse, cls, (*arguments, tensor.requires_grad)
    if function is _rebuild_tensor_v3:
        # It is given an UntypedStorage to pickle and expects what `torch.load` makes of that: a TypedStorage of bytes.
        storage = torch.storage.TypedStorage(wrap_storage=arguments[0], dtype=torch.uint8, _internal=True)
        return function, cls, (storage, *arguments[1:])
    return function, cls, arguments  # a Parameter with attributes, say: its data comes by on its own


def _rebuild_sparse(layout: torch.layout, data: tuple[Any, ...], requires_grad: bool) -> torch.Tensor:
    # torch's own also appends each tensor to a list that only `torch.load` empties
    # (`torch._utils._sparse_tensors_to_validate`): weights loaded that way would never be let go of.
    if layout is torch.sparse_coo:
        indices, values, size, is_coalesced = data
        tensor = torch.sparse_coo_tensor(indices, values, size, check_invariants=False, is_coalesced=is_coalesced)
    else:
        compressed, plain, values, size = data
        tensor = torch.sparse_compressed_tensor(compressed, plain, values, size, layout=layout, check_invariants=False)
    return tensor.requires_grad_(requires_grad)
