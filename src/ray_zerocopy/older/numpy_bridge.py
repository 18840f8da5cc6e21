"""Tensors as numpy arrays and back, over the same memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy.typing as npt
import torch

from ray_zerocopy import _engine
from ray_zerocopy.image.arrays import array_in, span_of
from ray_zerocopy.monitoring import loads

_LACKING = {
    torch.bfloat16: "bfloat16",
    torch.float8_e4m3fn: "float8_e4m3fn",
    torch.float8_e5m2: "float8_e5m2",
    torch.float8_e4m3fnuz: "float8_e4m3fnuz",
    torch.float8_e5m2fnuz: "float8_e5m2fnuz",
}
"""torch's dtypes that numpy has only with `ml_dtypes`, by their names there."""

_SAME_SIZE = {1: torch.uint8, 2: torch.int16}
"""The dtype through which they pass, by their size in bytes."""


def as_array(tensor: torch.Tensor, name: str) -> npt.NDArray[Any]:
    """The array over a tensor's memory (over a copy on the host, if it is on another device), of the same shape.

    Args:
        tensor: of any dtype that numpy, or numpy with `ml_dtypes`, has.
        name: what to call it in errors.

    Raises:
        ImportError: `ml_dtypes` is needed and missing.
        TypeError: numpy has nothing like it (sparse, quantized).
    """
    host = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        if host.dtype in _LACKING:
            return host.view(_SAME_SIZE[host.itemsize]).numpy().view(_ml_dtype(_LACKING[host.dtype], name))
        return host.numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} ({tensor.dtype}, {tensor.layout}) has no equal in numpy: {error}") from error


def as_tensors(arrays: Sequence[npt.NDArray[Any]]) -> tuple[list[torch.Tensor], _engine.View]:
    """Tensors over the arrays' memory, and the View that the read-only ones lie in: private, copy-on-write windows."""
    locked = [array for array in arrays if not array.flags.writeable]
    spans = [span_of(array) for array in locked]
    view = _engine.View([span.data for span, _ in spans])
    loads.note(view if spans else None, loads.Load("arrays of a model", "store"))
    unlocked = {
        id(array): array_in(view.segment(i), spans[i][1], array.shape, array.strides, array.dtype, writeable=True)
        for i, array in enumerate(locked)
    }
    return [_as_tensor(unlocked.get(id(array), array)) for array in arrays], view


def key_of(arrays: Iterable[npt.NDArray[Any]]) -> tuple[Hashable, ...]:
    """Where arrays lie, and their form. As long as somebody keeps them, others with an equal key are equal."""
    return tuple((a.__array_interface__["data"][0], a.dtype, a.shape, a.strides) for a in arrays)


def _as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    for dtype, name in _LACKING.items():
        if array.dtype.name == name:
            return torch.from_numpy(array.view(f"u{array.itemsize}")).view(dtype)
    return torch.from_numpy(array)


def _ml_dtype(name: str, tensor_name: str) -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(
            f"{tensor_name} is {name}, which numpy has only with the package ml_dtypes: "
            "pip install 'ray-zerocopy[ml_dtypes]'"
        ) from error
    return getattr(ml_dtypes, name)
