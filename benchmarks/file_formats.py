"""The ways to keep a model in a file that are compared, each by itself: without Ray, in any process of a machine.

Formats that hold weights alone need the model without them. It is pickled beside the file, its tensors on torch's meta
device: that is faster than building the model anew.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from benchmarks.models import modules_of


class Format(Protocol):
    """One way to keep a pipeline in a file."""

    def save(self, pipeline: Any, path: Path) -> None:
        """Writes the file, and others beside it if need be."""

    def load(self, path: Path) -> Any:
        """The pipeline, ready to be called."""


class OurFile:
    """This package."""

    def save(self, pipeline: Any, path: Path) -> None:
        import ray_zerocopy

        ray_zerocopy.save(pipeline, path)

    def load(self, path: Path) -> Any:
        import ray_zerocopy

        return ray_zerocopy.load(path)


class Weights:
    """A file of each model's weights, which are put into the model without them (`load_state_dict(assign=True)`)."""

    def __init__(self, save: Callable[[dict[str, torch.Tensor], Path], None], load: Callable[[Path], Any]) -> None:
        self._save = save
        self._load = load

    def save(self, pipeline: Any, path: Path) -> None:
        without_weights: dict[int, Any] = {}
        tied: list[dict[str, str]] = []
        for number, module in enumerate(modules_of(pipeline)):
            state = module.state_dict(keep_vars=True)
            without_weights |= {id(tensor): _on_meta(tensor) for tensor in state.values()}
            name_of = {(tensor.data_ptr(), tensor.shape): name for name, tensor in reversed(state.items())}
            owners = {name: name_of[tensor.data_ptr(), tensor.shape] for name, tensor in state.items()}
            tied.append({name: owner for name, owner in owners.items() if name != owner})
            kept = {name: tensor.detach() for name, tensor in state.items() if name not in tied[-1]}
            self._save(kept, path.with_suffix(f".{number}"))
        path.write_bytes(pickle.dumps((copy.deepcopy(pipeline, without_weights), tied)))

    def load(self, path: Path) -> Any:
        pipeline, tied = pickle.loads(path.read_bytes())
        for number, module in enumerate(modules_of(pipeline)):
            state = self._load(path.with_suffix(f".{number}"))
            state |= {name: state[owner] for name, owner in tied[number].items()}
            module.load_state_dict(state, assign=True)
            module.eval()
        return pipeline


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _safetensors() -> Format:
    from safetensors.torch import load_file, save_file

    return Weights(save_file, load_file)


def _torch_load() -> Format:
    return Weights(torch.save, lambda path: torch.load(path, mmap=True, weights_only=True))


class TorchScriptFile:
    """`torch.jit.save` and `torch.jit.load`."""

    def save(self, pipeline: Any, path: Path) -> None:
        torch.jit.save(pipeline, str(path))

    def load(self, path: Path) -> Any:
        return torch.jit.load(str(path))


class Entry(NamedTuple):
    """A format's name, what makes it, and whether it is for TorchScript modules, for others, or both."""

    title: str
    make: Callable[[], Format]
    eager: bool
    scripted: bool


OURS = "ray_zerocopy"

FORMATS = {
    OURS: Entry("ray_zerocopy", OurFile, eager=True, scripted=True),
    "safetensors": Entry("safetensors", _safetensors, eager=True, scripted=False),
    "torch_load": Entry("`torch.load(mmap=True)`", _torch_load, eager=True, scripted=False),
    "torch_jit": Entry("`torch.jit.load`", TorchScriptFile, eager=False, scripted=True),
}
