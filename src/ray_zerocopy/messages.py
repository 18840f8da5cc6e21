"""Arguments and results of task calls, with their tensors as plain buffers.

torch makes an archive of each tensor's storage to pickle it, which takes 0.8 ms each way however small it is. Ray moves
buffers beside the pickled bytes, copying them once.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray import cloudpickle

from ray_zerocopy.image import reduce_tensor

_SMALL = 4096
"""Bytes up to which a buffer of its own costs more than a copy of it."""


class Message:
    """What is pickled in place of a value, and is that value again when unpickled.

    Tensors in it arrive as Ray's own way brings them: as independent, writable ones, tied and viewed as they were.
    """

    def __init__(self, value: object) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self._value) is torch.Tensor and self._value.device.type == "cpu":
            reduced = reduce_tensor(self._value)
            if reduced is not None and type(reduced[1][0]) is torch.UntypedStorage:
                rebuild, (storage, *how) = reduced
                return _received_tensor, (rebuild, _bytes_of(storage), *how)
        stream = io.BytesIO()
        buffers: list[pickle.PickleBuffer] = []
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(self._value)  # type: ignore[no-untyped-call]
        return _received, (stream.getvalue(), *buffers)


def _received(pickled: bytes, *buffers: Any) -> Any:
    return pickle.loads(pickled, buffers=buffers)


def _received_tensor(rebuild: Callable[..., torch.Tensor], data: Any, *how: Any) -> torch.Tensor:
    return rebuild(_storage(data), *how)


class _Pickler(cloudpickle.CloudPickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.device.type == "cpu":
            reduced = reduce_tensor(obj)
            if reduced is not None:
                return reduced
        elif type(obj) is torch.UntypedStorage and obj.device.type == "cpu":
            return _storage, (_bytes_of(obj),)
        return super().reducer_override(obj)  # type: ignore[no-untyped-call]


def _bytes_of(storage: torch.UntypedStorage) -> bytes | pickle.PickleBuffer:
    data: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return data.tobytes() if data.nbytes <= _SMALL else pickle.PickleBuffer(data)


def _storage(data: Any) -> torch.UntypedStorage:
    source = np.frombuffer(data, np.uint8)
    copy = torch.empty(source.nbytes, dtype=torch.uint8)  # on memory aligned as that of any new tensor
    copy.numpy()[:] = source
    return copy.untyped_storage()
