"""Checkpoints: the weights of a module in safetensors files, used where they lie."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.dlpack import from_dlpack

from ray_zerocopy import _engine
from ray_zerocopy.image.names import DTYPES
from ray_zerocopy.image.tensors import DLPACK_TYPES, contiguous_stride, tensor_in

M = TypeVar("M", bound=nn.Module)

_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}

_SHOWN = 5
"""Names in a message; of more it says how many there are."""

AnyPath = str | os.PathLike[str]


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
        files: a safetensors file; the index of a sharded checkpoint (`model.safetensors.index.json`); a directory with
            one of these in it; or several files that hold the checkpoint together.

    Returns:
        The module.

    Raises:
        FileNotFoundError, OSError: there is no such file, or it cannot be opened.
        ValueError: a file is not a safetensors file, or is truncated; the tensors' names or shapes are not those of the
            module (the message names them); or a buffer that is in no checkpoint is on the meta device.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file, wanted in _files(files):
        for name, tensor in _tensors(file, wanted):
            if name in tensors:
                raise ValueError(f"The checkpoint has two tensors {name!r}, the second in {str(file)!r}.")
            tensors[name] = tensor
    tie_weights: Any = getattr(module, "tie_weights", None)
    if callable(tie_weights):
        tie_weights()
    state = _state(module, tensors)
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:  # in which torch lists all names and shapes that do not fit
        raise ValueError(f"The checkpoint is not that of this module: {error}") from error
    return module


def _state(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as a state dict: parameters that the module ties are one and the same.

    Raises:
        ValueError: the module would be left without memory for a buffer.
    """
    state = dict(tensors)
    tied: dict[int, nn.Parameter] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    # Those that the checkpoint has come first: it may have any of a parameter's names.
    for name, parameter in sorted(parameters.items(), key=lambda item: item[0] not in tensors):
        if name not in tensors:
            if id(parameter) in tied:
                state[name] = tied[id(parameter)]
        elif id(parameter) not in tied:
            tensor = tensors[name]
            requires_grad = parameter.requires_grad and (tensor.is_floating_point() or tensor.is_complex())
            state[name] = tied[id(parameter)] = nn.Parameter(tensor, requires_grad)
        elif torch.equal(tied[id(parameter)], tensors[name]):
            state[name] = tied[id(parameter)]
        else:
            raise ValueError(f"The module ties {name!r} to another parameter, and in the checkpoint they differ.")
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = module.named_buffers(remove_duplicate=False)
    homeless = [name for name, buffer in buffers if buffer.is_meta and name not in persistent]
    if homeless:
        raise ValueError(
            f"The module's buffers {_listed(homeless)} are on the meta device, and in no checkpoint, since they are "
            "not persistent. Give them their values first, or make the module with its buffers elsewhere."
        )
    return state


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _tensors(path: Path, wanted: frozenset[str] | None) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file, in a private, copy-on-write window on it.

    Args:
        path: of the file.
        wanted: the names of the tensors; None: all.
    """
    checkpoint = _engine.Checkpoint.open(str(path))
    view = _engine.View([checkpoint.data().data])
    with contextlib.suppress(OSError):  # no thread to be had: then the first use takes its page faults itself
        view.prefault()
    found = set()
    for name, dtype_name, shape, offset, nbytes in checkpoint.tensors:
        if wanted is None or name in wanted:
            found.add(name)
            yield name, _tensor(view, name, dtype_name, shape, offset, nbytes)
    if missing := sorted((wanted or frozenset()) - found):
        raise ValueError(f"{str(path)!r} lacks what the index of the checkpoint says is in it: {_listed(missing)}.")


def _tensor(
    view: _engine.View, name: str, dtype_name: str, shape: tuple[int, ...], offset: int, nbytes: int
) -> torch.Tensor:
    dtype = _TORCH_DTYPES.get(dtype_name)
    if dtype is None:
        raise ValueError(f"The tensor {name!r} has the dtype {dtype_name}, which this package has no tensors of.")
    if nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    bytes_of = view.part(0, offset, nbytes)
    if bytes_of.__array_interface__["data"][0] % dtype.itemsize != 0:  # a file of odd alignment
        bytes_of = bytes_of.copy()
    elif dtype in DLPACK_TYPES:
        return from_dlpack(view.tensor(0, offset, nbytes, shape, *DLPACK_TYPES[dtype]))
    storage = torch.from_numpy(bytes_of).untyped_storage()
    return tensor_in(storage, torch.Tensor, dtype, 0, shape, contiguous_stride(shape), False)


def _files(files: AnyPath | Iterable[AnyPath]) -> Iterator[tuple[Path, frozenset[str] | None]]:
    """The files of a checkpoint, each with the names of its tensors; None: all that it has."""
    if not isinstance(files, str | os.PathLike):
        for file in files:
            yield from _files(file)
        return
    path = Path(files)
    if path.is_dir():
        path = _in_directory(path)
    if path.suffix == ".json":
        yield from _shards(path)
    else:
        yield path, None


def _in_directory(directory: Path) -> Path:
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        found = sorted(directory.glob(pattern))
        if len(found) > 1:
            names = _listed([path.name for path in found])
            raise ValueError(f"{str(directory)!r} has several checkpoints, or parts of one: give the files of {names}.")
        if found:
            return found[0]
    raise FileNotFoundError(f"{str(directory)!r} has no file *.safetensors.")


def _shards(index: Path) -> Iterator[tuple[Path, frozenset[str]]]:
    try:
        weight_map = dict(json.loads(index.read_bytes())["weight_map"])
        names_in: dict[str, set[str]] = {}
        for name, file in weight_map.items():
            names_in.setdefault(file, set()).add(name)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(index)!r} is not the index of a sharded checkpoint: {error!r}.") from error
    for file, names in names_in.items():
        if Path(file).name != file:
            raise ValueError(f"{str(index)!r} names the file {file!r}, which is not beside it.")
        yield index.parent / file, frozenset(names)
