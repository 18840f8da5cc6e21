"""Taking a TorchScript module's weights out as numpy arrays, and putting them back: the older interface."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy.typing as npt
import torch

from ray_zerocopy.image import Thawed
from ray_zerocopy.image.torchscript import ScriptArchives, thaw_scripts
from ray_zerocopy.older.numpy_bridge import as_array, as_tensors

Arrays: TypeAlias = OrderedDict[str, npt.NDArray[Any]]

_ZIP = b"PK"
"""How the file of `torch.jit.save` begins."""


def extract_tensors(script_module: torch.jit.ScriptModule) -> tuple[bytes, Arrays]:
    """A module as `torch.jit.save` writes it, weights and all, and its weights as numpy arrays.

    Args:
        script_module: any TorchScript module; it is not changed.

    Returns:
        The file, and the parameters and buffers by their names: arrays that lie in the module's memory. Tied weights
        are one array.

    Raises:
        ImportError: a dtype that numpy lacks (bfloat16, float8) needs the package `ml_dtypes`.
        TypeError: it is no TorchScript module, or a weight is of a kind that numpy cannot show (sparse, quantized).
    """
    _check(script_module)
    stream = io.BytesIO()
    torch.jit.save(script_module, stream)
    return stream.getvalue(), _named_arrays(script_module)


def extract_tensors_minimal(script_module: torch.jit.ScriptModule) -> tuple[bytes, Arrays]:
    """As `extract_tensors`, but the bytes hold no weights, and are for `replace_tensors` alone.

    Weights without a name (the constants of a frozen module, tensors in lists) are arrays of bytes named `storages.N`.
    """
    _check(script_module)
    arrays = _named_arrays(script_module)
    whole = {
        tensor.untyped_storage().data_ptr(): name
        for name, tensor in _named_tensors(script_module)
        if tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()
    }
    names: list[str] = []

    def number(storage: torch.UntypedStorage) -> int:
        name = whole.get(storage.data_ptr())
        if name is None:
            name = f"storages.{len(names)}"
            arrays[name] = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        names.append(name)
        return len(names) - 1

    archives = ScriptArchives(number)
    frozen = archives.archive({archives.add(script_module)})
    return pickle.dumps((frozen, names)), arrays


def replace_tensors(model_bytes: bytes, tensors: Mapping[str, npt.NDArray[Any]]) -> torch.jit.ScriptModule:
    """A module in eval mode with its weights in the given arrays, not copied.

    Writable arrays and the module go on sharing memory. Read-only ones, such as those out of Ray's object store, become
    private on write: what the module writes, nobody else sees.

    Args:
        model_bytes: from `extract_tensors` or `extract_tensors_minimal`.
        tensors: likewise, or fetched from where they were stored.

    Raises:
        ValueError: `tensors` lacks one of the module's weights; the message names it.
    """
    module: torch.jit.ScriptModule = put_back(model_bytes, tensors).root
    return module


def put_back(data: bytes, tensors: Mapping[str, npt.NDArray[Any]]) -> Thawed:
    """As `replace_tensors`; returns the View as well that the module's read-only weights lie in."""
    arrays = {id(array): array for array in tensors.values()}
    placed_tensors, view = as_tensors(list(arrays.values()))
    by_array = dict(zip(arrays, placed_tensors, strict=True))
    placed = {name: by_array[id(array)] for name, array in tensors.items()}
    if data[: len(_ZIP)] == _ZIP:
        module = torch.jit.load(io.BytesIO(data))
        for name, tensor in _named_tensors(module):
            tensor.data = _found(placed, name)
        return Thawed(module.eval(), view)
    frozen, names = pickle.loads(data)

    def storage_of(number: int) -> torch.UntypedStorage:
        return _found(placed, names[number]).untyped_storage()

    (module,) = thaw_scripts(frozen, storage_of).values()
    return Thawed(module.eval(), view)


def _check(script_module: Any) -> None:
    if not isinstance(script_module, torch.jit.ScriptModule):
        raise TypeError(f"Expected torch.jit.ScriptModule, got a {type(script_module).__name__}.")


def _found(placed: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in placed:
        raise ValueError(f"Expected an array for {name!r} among the tensors, got {sorted(placed)}.")
    return placed[name]


def _named_tensors(module: torch.jit.ScriptModule) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _named_arrays(module: torch.jit.ScriptModule) -> Arrays:
    seen: dict[tuple[Any, ...], npt.NDArray[Any]] = {}
    arrays: Arrays = OrderedDict()
    for name, tensor in _named_tensors(module):
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in seen:
            seen[key] = as_array(tensor, name)
        arrays[name] = seen[key]
    return arrays
