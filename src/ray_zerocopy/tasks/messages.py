"""Arguments and results of task calls on their way: a few bytes where that is all there is, buffers beside them if not.

torch makes an archive of each tensor's storage to pickle it, which takes 0.8 ms each way however small it is; here
storages are plain bytes. Ray takes half a millisecond to pickle an argument or a result, and none if it is `bytes`.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import ray
import torch
from ray import cloudpickle
from ray.actor import ActorHandle
from ray.util.client import ray as client
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

from ray_zerocopy import _engine
from ray_zerocopy.image.blocks import Span
from ray_zerocopy.image.tensors import DLPACK_TYPES, reduce_tensor

_SMALL_BUFFER = 4096
"""Bytes up to which a buffer of its own costs more than a copy of it."""

_SMALL_MESSAGE = 1 << 16
"""Bytes of tensors up to which a message is `bytes`."""


class Arguments(NamedTuple):
    """What a method is called with, without the references: these are arguments of the task, so that Ray resolves them.

    As a plain tuple it is pickled with nothing that has to be imported.
    """

    values: tuple[Any, ...]
    """Of all arguments; the last ones are those of the keyword arguments. None in the places of references."""
    keywords: tuple[str, ...]
    references: tuple[int, ...]
    """Which values come by reference."""

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Arguments, list[ray.ObjectRef[Any]]]:
        """The arguments, and the references among them."""
        values = [*args, *kwargs.values()]
        references = {place: value for place, value in enumerate(values) if isinstance(value, ray.ObjectRef)}
        for place in references:
            values[place] = None
        return cls(tuple(values), tuple(kwargs), tuple(references)), list(references.values())

    def filled(self, referred: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional arguments and the keyword arguments.

        Args:
            referred: what the references lead to.
        """
        values = list(self.values)
        for place, value in zip(self.references, referred, strict=True):
            values[place] = value
        split = len(values) - len(self.keywords)
        return values[:split], dict(zip(self.keywords, values[split:], strict=True))


class Message:
    """What is pickled in place of a value, and is that value again when unpickled.

    Tensors in it arrive as Ray's own way brings them: as independent, writable ones, tied and viewed as they were.
    """

    def __init__(self, value: object) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        stream = io.BytesIO()
        buffers: list[pickle.PickleBuffer] = []
        _Pickler(stream, buffers.append).dump(self._value)  # type: ignore[no-untyped-call]
        return _received, (stream.getvalue(), *buffers)


Packed: TypeAlias = bytes | tuple[Any]
"""What to give Ray in place of a value."""


def packed(value: object) -> Packed:
    """A value for Ray to carry: as bytes, unless it is large, or holds what plain pickle is not to pickle.

    Never raises: what nobody can pickle is left for Ray to refuse.
    """
    stream = io.BytesIO()
    try:
        _SmallPickler(stream).dump(value)
    except Exception:  # whatever a reducer raises
        if client.is_connected():  # Ray Client finds references only in what it pickles itself
            return (value,)
        return (Message(value),)
    return (Message(value),) if cloudpickle.list_registry_pickle_by_value() else stream.getvalue()


def unpacked(arrived: bytes | tuple[Any]) -> Any:
    """What has become of a `packed` value when Ray has brought it."""
    return pickle.loads(arrived) if isinstance(arrived, bytes) else arrived[0]


def _received(pickled: bytes, *buffers: Any) -> Any:
    return pickle.loads(pickled, buffers=buffers)


class _Pickler(cloudpickle.CloudPickler):
    def __init__(self, stream: io.BytesIO, take_buffer: Callable[[pickle.PickleBuffer], object]) -> None:
        super().__init__(stream, protocol=5, buffer_callback=take_buffer)  # type: ignore[no-untyped-call]

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.device.type == "cpu":
            reduced = reduce_tensor(obj)
            if reduced is not None:
                return reduced
        elif type(obj) is torch.UntypedStorage and obj.device.type == "cpu":
            return _storage, (_bytes_of(obj),)
        return super().reducer_override(obj)  # type: ignore[no-untyped-call]


class _RefusedError(Exception):
    pass


class _SmallPickler(pickle.Pickler):
    """Plain pickle, without a look at whether classes and functions can be imported elsewhere: that takes longest.

    Refuses parameters, tensors that are not plain and contiguous or share memory, numpy's arrays (which are read-only
    when they come by Ray's way, whatever their size), and what Ray must pickle itself, as part of one of its own
    objects.
    """

    dispatch_table = cloudpickle.CloudPickler.dispatch_table  # with what users gave to `ray.util.register_serializer`

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self._nbytes = 0
        self._ranges: list[tuple[int, int]] = []

    def dump(self, obj: object) -> None:
        super().dump(obj)
        self._ranges.sort()
        if any(end > begin for (_, end), (begin, _) in itertools.pairwise(self._ranges)):
            raise _RefusedError  # tensors with memory in common stay tied

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls is torch.Tensor:
            return _received_tensor, self._parts(obj)
        if isinstance(obj, (torch.Tensor, torch.UntypedStorage, np.ndarray, ray.ObjectRef, ActorHandle)):
            raise _RefusedError
        if getattr(obj, "__module__", None) == "__main__":
            raise _RefusedError  # other processes cannot import it: cloudpickle takes it by value
        return NotImplemented

    def _parts(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        # Few questions: after a model has run, each costs as much as a hundred of them at other times.
        capsule = to_dlpack(tensor)  # which raises for all that is not strided and dense
        data, code, bits, shape, address = _engine.tensor_bytes(capsule, _SMALL_MESSAGE - self._nbytes)
        requires_grad = tensor.requires_grad
        is_changed = tensor.is_neg() or (code == _COMPLEX and tensor.is_conj())
        if is_changed or (code, bits) not in _DTYPES or tensor.__dict__ or (requires_grad and tensor._backward_hooks):
            raise _RefusedError
        self._nbytes += len(data)
        self._ranges.append((address, address + len(data)))
        return data, code, bits, shape, requires_grad


def _bytes_of(storage: torch.UntypedStorage) -> bytes | pickle.PickleBuffer:
    # Not by torch's own way to numpy: after that the storage could not be resized any more.
    data: Any = np.asarray(Span(storage.data_ptr(), storage.nbytes(), [storage]))
    return data.tobytes() if data.nbytes <= _SMALL_BUFFER else pickle.PickleBuffer(data)


def _storage(data: Any) -> torch.UntypedStorage:
    # On memory aligned as that of any new tensor.
    copy = torch.empty(memoryview(data).nbytes, dtype=torch.uint8, device=_CPU)
    if copy.nbytes:
        _engine.fill_tensor(to_dlpack(copy), data)
    return copy.untyped_storage()


_CPU = torch.device("cpu")
_DTYPES = {form: dtype for dtype, form in DLPACK_TYPES.items()}
_COMPLEX, _ = DLPACK_TYPES[torch.complex64]


def _received_tensor(data: bytes, code: int, bits: int, shape: tuple[int, ...], requires_grad: bool) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=_DTYPES[code, bits], device=_CPU)
    _engine.fill_tensor(to_dlpack(tensor), data)
    return tensor.requires_grad_() if requires_grad else tensor
