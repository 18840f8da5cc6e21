"""The names of a pipeline's tensors, by which a file of its image can be read without Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram

from ray_zerocopy.compiled import CompiledProgram
from ray_zerocopy.image.blocks import BlockTable
from ray_zerocopy.image.tensors import StorageCollector, is_elements
from ray_zerocopy.onnx import OnnxModel

RESERVED = "zerocopy."
"""What the names of the format's own entries begin with."""

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
}
"""What safetensors calls the dtypes that both have."""


class Placed(NamedTuple):
    """Where a tensor lies, and what it is, in the terms of an image file."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    block: int
    offset: int
    """Bytes from the start of the block."""


def placed(tensor: torch.Tensor, blocks: BlockTable, storages: StorageCollector) -> Placed | None:
    """Where a tensor lies among the blocks of a frozen pipeline.

    None for one whose elements are not simply there, whose dtype safetensors lacks, or that the walk did not meet.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None or not is_elements(tensor):
        return None
    block = storages.find(tensor.untyped_storage())
    if block is None or tensor.storage_offset() * tensor.itemsize + tensor.nbytes > blocks.nbytes(block):
        return None
    offset = int(tensor.storage_offset()) * tensor.itemsize if blocks.nbytes(block) else 0
    return Placed(dtype, tuple(tensor.shape), tensor.stride(), block, offset)


def tensor_names(models: Sequence[Any], paths: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names, no two of them equal, and the tensors that have them; tied tensors come once for each of their names.

    Args:
        models: the outermost models of a pipeline.
        paths: where each is within the pipeline, beginning with `pipeline`.
    """
    seen: set[str] = set()
    for model, path in zip(models, paths, strict=True):
        prefix = path.removeprefix("pipeline").removeprefix(".")
        for own, tensor in _named_tensors(model).items():
            name = f"{prefix}.{own}" if prefix else own
            if name not in seen and _is_writable(name):
                seen.add(name)
                yield name, tensor


def _named_tensors(model: Any) -> dict[str, torch.Tensor]:
    """A model's tensors by the names that `state_dict` gives them."""
    found: Mapping[str, Any] = {}
    if isinstance(model, nn.Module):
        # What state_dict finds: that itself may be a user's, and make tensors.
        persistent = {name for name, _ in _persistent_buffers(model)}
        found = dict(model.named_parameters(remove_duplicate=False))
        found |= {name: b for name, b in model.named_buffers(remove_duplicate=False) if name in persistent}
    elif isinstance(model, ExportedProgram):
        found = {**model.constants, **model.state_dict}
    elif isinstance(model, CompiledProgram):
        found = constants_of(model)
    elif isinstance(model, OnnxModel):
        found = model.named_tensors()
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def constants_of(program: CompiledProgram) -> dict[str, torch.Tensor]:
    """The constants of a compiled program by their names in its package."""
    return program.__reduce__()[1][1]


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor | None]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        transient = getattr(module, "_non_persistent_buffers_set", ())
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if name not in transient:
                yield f"{prefix}.{name}" if prefix else name, buffer


def _is_writable(name: str) -> bool:
    """Whether a file can have an entry of this name."""
    try:
        name.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return bool(name) and name != "__metadata__" and not name.startswith(RESERVED)
