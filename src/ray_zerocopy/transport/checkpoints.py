"""Checkpoints: the weights of a module in safetensors files, used where they lie."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.dlpack import from_dlpack

from ray_zerocopy import _engine
from ray_zerocopy.image.names import DTYPES
from ray_zerocopy.image.tensors import DLPACK_TYPES, contiguous_stride, tensor_in
from ray_zerocopy.monitoring import loads, metrics
from ray_zerocopy.transport import unshared

M = TypeVar("M", bound=nn.Module)

_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}

_SHOWN = 5
"""Names in a message; of more it says how many there are."""

AnyPath = str | bytes | os.PathLike[str]


def load_checkpoint(module: M, files: AnyPath | Iterable[AnyPath]) -> M:
    """Give a module the weights of a safetensors checkpoint, without copying them.

    The module's parameters and persistent buffers then lie in the files' pages, which all processes of the machine that
    load the checkpoint share, until they are written to: what is written no other process sees, nor do the files.
    `ActorWrapper(module)` and the other wrappers publish them from there, so that no private copy is made on the way
    from the checkpoint to the object store. For that, make the module on the meta device, where it has no memory:

        with torch.device("meta"):
            module = Net()
        load_checkpoint(module, "net.safetensors").eval()

    Tensors have the dtype that they have in the file. What the module ties stays tied, and is needed once; a module
    that has `tie_weights()`, as those of transformers, is asked to tie.

    The files must not be changed in place, nor shortened, as long as the module is used; they may be replaced by
    renaming others, or removed.

    Args:
        module: its parameters and persistent buffers are replaced, as by `load_state_dict(assign=True)`; its mode
            stays.
        files: a safetensors file, which may be one that `save` made of a module; the index of a sharded checkpoint
            (`model.safetensors.index.json`); a directory with one of these in it; or several files that hold the
            checkpoint together.

    Returns:
        The module.

    Raises:
        FileNotFoundError, OSError: there is no such file, or it cannot be opened.
        ValueError: a file is not a safetensors file, or is truncated; the tensors' names or shapes are not those of the
            module (the message names them), and the module has those that fit by then, as `load_state_dict` leaves it;
            or a tensor of the module that is in no checkpoint is on the meta device.
        TypeError: `module` is not a module, or `files` are not paths.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"Expected a torch.nn.Module to give the checkpoint's weights to, got {module!r}.")
    began = time.perf_counter()
    paths = _paths(files)
    origin = ", ".join(os.path.abspath(os.fsdecode(path)) for path in paths)
    tensors = _tensors(_engine.Checkpoint.open(*paths), loads.Load(type(module).__name__, "checkpoint", origin))
    tie_weights: Any = getattr(module, "tie_weights", None)
    if callable(tie_weights):
        tie_weights()
    state = _state(module, tensors)
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:  # in which torch lists all names and shapes that do not fit
        raise ValueError(f"The checkpoint is not that of this module: {error}") from error
    metrics.note_seconds("checkpoint", time.perf_counter() - began)
    return module


def _state(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as a state dict: parameters and buffers that the module ties are one and the same.

    Raises:
        ValueError: the module would be left without memory for a tensor.
    """
    state = dict(tensors)
    tied: dict[int, torch.Tensor] = {}
    persistent = module.state_dict(keep_vars=True).keys()
    own: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    own |= {name: buffer for name, buffer in buffers.items() if name in persistent}
    # Those that the checkpoint has come first: it may have any of a tensor's names.
    for name, old in sorted(own.items(), key=lambda item: item[0] not in tensors):
        if name not in tensors:
            if id(old) in tied:
                state[name] = tied[id(old)]
        elif id(old) not in tied:
            state[name] = tied[id(old)] = _in_place_of(old, tensors[name])
        elif torch.equal(tied[id(old)], tensors[name]):
            state[name] = tied[id(old)]
        else:
            raise ValueError(f"The module ties {name!r} to another tensor, and in the checkpoint they differ.")
    _refuse_meta("buffers", [name for name, buffer in buffers.items() if buffer.is_meta and name not in persistent])
    _refuse_meta("attributes", [name for name, value in _attributes(module) if value.is_meta])
    return state


def _in_place_of(old: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(old, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, old.requires_grad and (tensor.is_floating_point() or tensor.is_complex()))


def _attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that are a module's without being its parameters or buffers."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}.{name}" if prefix else name, value


def _refuse_meta(what: str, names: list[str]) -> None:
    if names:
        raise ValueError(
            f"The module's {what} {_listed(names)} are on the meta device, and in no checkpoint, since they are not "
            "persistent. Give them their values first, or make the module with them elsewhere."
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _tensors(checkpoint: _engine.Checkpoint, load: loads.Load) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by their names, in a private, copy-on-write window on its files.

    Args:
        checkpoint: with one file or several.
        load: what they are loaded for.
    """
    view = _engine.View([data.data for data in checkpoint.data()])
    with contextlib.suppress(OSError):  # no thread to be had: then the first use takes its page faults itself
        view.prefault()
    loads.note(view, load)
    unshared.say(view.copied_bytes, view.private_copy_reason)
    tensors, copied = {}, 0
    for tensor in checkpoint.tensors:
        name = tensor[0]
        tensors[name], is_copy = _tensor(view, *tensor)
        copied += tensors[name].nbytes if is_copy else 0
    unshared.say(copied, "tensors in the checkpoint do not begin at multiples of the size of their elements")
    return tensors


def _tensor(
    view: _engine.View, name: str, dtype_name: str, shape: tuple[int, ...], file: int, offset: int, nbytes: int
) -> tuple[torch.Tensor, bool]:
    """A tensor, and whether it is a private copy."""
    dtype = _TORCH_DTYPES.get(dtype_name)
    if dtype is None:
        raise ValueError(f"The tensor {name!r} has the dtype {dtype_name}, which this package has no tensors of.")
    if nbytes == 0:
        return torch.empty(shape, dtype=dtype), False
    bytes_of = view.part(file, offset, nbytes)
    is_copy = bytes_of.__array_interface__["data"][0] % dtype.itemsize != 0  # a file of odd alignment
    if is_copy:
        bytes_of = bytes_of.copy()
    elif dtype in DLPACK_TYPES:
        return from_dlpack(view.tensor(file, offset, nbytes, shape, *DLPACK_TYPES[dtype])), False
    storage = torch.from_numpy(bytes_of).untyped_storage()
    return tensor_in(storage, torch.Tensor, dtype, 0, shape, contiguous_stride(shape), False), is_copy


def _paths(files: AnyPath | Iterable[AnyPath]) -> list[AnyPath]:
    paths = [files] if isinstance(files, str | bytes | os.PathLike) or not isinstance(files, Iterable) else list(files)
    for path in paths:
        if not isinstance(path, str | bytes | os.PathLike):
            raise TypeError(f"Expected the path of a checkpoint's file, or several, got {path!r}.")
    return paths
