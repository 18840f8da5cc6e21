"""Exported programs (`torch.export`) as leaves of an image: torch cannot pickle them with their tensors outside."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram

UNREADABLE = "AOTICompiledModel"
"""The class of what torch's own loader makes of a compiled package: it gives back neither package nor weights."""


def reduce_exported_program(program: ExportedProgram) -> tuple[Callable[..., ExportedProgram], tuple[Any, ...]]:
    """A reduction (as of `object.__reduce_ex__`) of a program.

    It is written in the schema of `torch.export.save`; its tensors stay tensors, for the pickler to reduce like any
    others, and are the program's own again afterwards, not copies.
    """
    from torch._export.serde.serialize import ExportedProgramSerializer

    weightless = copy.copy(program)
    weightless._state_dict = {name: _without_bytes(tensor) for name, tensor in program.state_dict.items()}
    weightless._constants = {
        name: _without_bytes(value) if isinstance(value, torch.Tensor) else value
        for name, value in program.constants.items()
    }
    weightless._example_inputs = None
    written = ExportedProgramSerializer().serialize(weightless).exported_program
    # Pickled here, for the classes of the schema are many: as JSON, typed again at load, it takes twice as long.
    return _rebuild, (pickle.dumps(written), program.state_dict, program.constants, program.example_inputs)


def _without_bytes(tensor: torch.Tensor) -> torch.Tensor:
    stand_in = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(stand_in, tensor.requires_grad)
    return stand_in


def _rebuild(
    written: bytes, state_dict: dict[str, Any], constants: dict[str, Any], example_inputs: tuple[Any, ...] | None
) -> ExportedProgram:
    # Imported here: it brings dynamo and sympy, 65 MB that only workers with such a program should pay.
    from torch._export.serde.serialize import ExportedProgramDeserializer

    with _DESERIALIZING:
        return ExportedProgramDeserializer().deserialize(
            pickle.loads(written), state_dict, constants, example_inputs or b""
        )


_DESERIALIZING = threading.Lock()
"""torch's deserializer serves one thread of the process at a time."""
