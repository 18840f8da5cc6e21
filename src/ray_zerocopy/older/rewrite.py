"""Taking a model's weights out as numpy arrays, and putting them back: the older interface.

The wrappers do not come by here. Whoever stores what `extract_tensors` returns with `ray.put` shares the weights, too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from torch import nn

from ray_zerocopy.older.numpy_bridge import as_array, as_tensors

ModuleArrays: TypeAlias = dict[str, dict[str, npt.NDArray[Any]]]
"""One submodule's own parameters and buffers: `{"params": {name: array}, "buffers": {name: array}}`."""


def extract_tensors(model: nn.Module) -> tuple[nn.Module, list[ModuleArrays]]:
    """Split a model into its structure and its weights.

    Args:
        model: any module; it is not changed.

    Returns:
        A copy of the module in eval mode whose parameters and buffers are None; and, for each of its submodules in the
        order of `model.named_modules()`, its own parameters and buffers as numpy arrays. The arrays lie in the model's
        memory, nothing is copied; tied weights are one array. Keep the model unchanged until they are stored.

    Raises:
        ImportError: a dtype that numpy lacks (bfloat16, float8) needs the package `ml_dtypes`.
        TypeError: `model` is not a module, or a weight is of a kind that numpy cannot show (sparse, quantized).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected a torch.nn.Module, got a {type(model).__name__}.")
    arrays: dict[int, npt.NDArray[Any]] = {}
    without: dict[int, Any] = {}

    def array(name: str, tensor: torch.Tensor) -> npt.NDArray[Any]:
        without[id(tensor)] = None
        if id(tensor) not in arrays:
            arrays[id(tensor)] = as_array(tensor, name)
        return arrays[id(tensor)]

    tensors: list[ModuleArrays] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        tensors.append(
            {
                "params": {n: array(prefix + n, p) for n, p in module._parameters.items() if p is not None},
                "buffers": {n: array(prefix + n, b) for n, b in module._buffers.items() if b is not None},
            }
        )
    # deepcopy takes None for each tensor, as if it had been copied already.
    skeleton = copy.deepcopy(model, without)
    return skeleton.eval(), tensors


def replace_tensors(skeleton: nn.Module, tensors: list[ModuleArrays]) -> None:
    """Put the weights back into a skeleton, in place and without copying them.

    Writable arrays and the model go on sharing memory. Read-only ones, such as those out of Ray's object store, become
    private on write: what the model writes, nobody else sees.

    Args:
        skeleton: from `extract_tensors`.
        tensors: likewise, or fetched from where it was stored.

    Raises:
        ValueError: the skeleton has another number of submodules than `tensors`.
    """
    arrays = distinct_arrays(tensors)
    placed, _ = as_tensors(list(arrays.values()))
    put_back(skeleton, tensors, dict(zip(arrays, placed, strict=True)))


def distinct_arrays(tensors: list[ModuleArrays]) -> dict[int, npt.NDArray[Any]]:
    """The arrays of `extract_tensors`, each once, by `id`."""
    return {id(a): a for entry in tensors for kind in ("params", "buffers") for a in entry[kind].values()}


def put_back(skeleton: nn.Module, tensors: list[ModuleArrays], placed: Mapping[int, torch.Tensor]) -> None:
    """As `replace_tensors`, with the tensors to put there given by the `id` of the array that each is for."""
    modules = list(skeleton.modules())
    if len(modules) != len(tensors):
        raise ValueError(f"Expected the tensors of {len(modules)} submodules for this skeleton, got {len(tensors)}.")
    parameters: dict[int, nn.Parameter] = {}
    for module, entry in zip(modules, tensors, strict=True):
        for name, array in entry["params"].items():
            if id(array) not in parameters:
                tensor = placed[id(array)]
                trainable = tensor.is_floating_point() or tensor.is_complex()
                parameters[id(array)] = nn.Parameter(tensor, requires_grad=trainable)
            setattr(module, name, parameters[id(array)])
        for name, array in entry["buffers"].items():
            setattr(module, name, placed[id(array)])


replace_tensors_direct = replace_tensors
"""The same: there is nothing left to bypass."""
