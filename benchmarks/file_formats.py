"""The ways to keep a model in a file that are compared, each by itself: without Ray, in any process of a machine.

Formats that hold weights alone need the model without them. There are two ways to get it. A program usually builds the
model anew, on torch's meta device, where tensors take no memory. The least that a program could do is to unpickle one
that was pickled on the meta device. Both are measured.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from benchmarks.models import Case, modules_of

Build = Callable[[], Any]
Tensors = dict[str, torch.Tensor]


class Format(Protocol):
    """One way to keep a pipeline in a file."""

    def save(self, pipeline: Any, path: Path, build: Build) -> None:
        """Writes the file, and others beside it if need be.

        Args:
            pipeline: what is saved.
            path: where.
            build: makes a pipeline like it with other weights; it can be pickled.
        """

    def load(self, path: Path) -> Any:
        """The pipeline, ready to be called."""


class OurFile:
    """This package."""

    def save(self, pipeline: Any, path: Path, build: Build) -> None:
        import ray_zerocopy

        ray_zerocopy.save(pipeline, path)

    def load(self, path: Path) -> Any:
        import ray_zerocopy

        return ray_zerocopy.load(path)


class Weights(NamedTuple):
    """Files of each model's weights, and nothing else. Formats that are saved in one folder share them."""

    suffix: str
    write: Callable[[Tensors, Path], None]
    read: Callable[[Path], Tensors]


def _safetensors() -> Weights:
    from safetensors.torch import load_file, save_file

    return Weights("safetensors", save_file, load_file)


def _torch_load() -> Weights:
    return Weights("pt", torch.save, lambda path: torch.load(path, mmap=True, weights_only=True))


class PickledWithWeights:
    """The model on the meta device, pickled; its weights are assigned to it (`load_state_dict(assign=True)`)."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def save(self, pipeline: Any, path: Path, build: Build) -> None:
        without_weights: dict[int, Any] = {}
        for module in modules_of(pipeline):
            without_weights |= {id(tensor): _on_meta(tensor) for tensor in module.state_dict(keep_vars=True).values()}
        tied = _write_weights(self._weights, pipeline, path)
        path.write_bytes(pickle.dumps((copy.deepcopy(pipeline, without_weights), tied)))

    def load(self, path: Path) -> Any:
        pipeline, tied = pickle.loads(path.read_bytes())
        _assign_weights(self._weights, pipeline, path, tied)
        return pipeline


class BuiltWithWeights:
    """The model is built anew on the meta device; its weights are assigned to it (`load_state_dict(assign=True)`).

    Buffers that no `state_dict` has come from the pickle that also names the function that builds the model.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def save(self, pipeline: Any, path: Path, build: Build) -> None:
        tied = _write_weights(self._weights, pipeline, path)
        others = []
        for module in modules_of(pipeline):
            kept = module.state_dict()
            others.append({name: buffer for name, buffer in module.named_buffers() if name not in kept})
        path.write_bytes(pickle.dumps((build, tied, others)))

    def load(self, path: Path) -> Any:
        build, tied, others = pickle.loads(path.read_bytes())
        with torch.device("meta"):
            pipeline = build()
        _assign_weights(self._weights, pipeline, path, tied)
        for module, buffers in zip(modules_of(pipeline), others, strict=True):
            for name, buffer in buffers.items():
                owner, _, own_name = name.rpartition(".")
                setattr(module.get_submodule(owner), own_name, buffer)
        return pipeline


def _write_weights(weights: Weights, pipeline: Any, path: Path) -> list[dict[str, str]]:
    """Write a file for each model. Return, for each, the names of tied tensors, with those they are written under."""
    tied = []
    for number, module in enumerate(modules_of(pipeline)):
        state = module.state_dict()
        name_of = {(tensor.data_ptr(), tensor.shape): name for name, tensor in reversed(state.items())}
        owners = {name: name_of[tensor.data_ptr(), tensor.shape] for name, tensor in state.items()}
        tied.append({name: owner for name, owner in owners.items() if name != owner})
        kept = {name: tensor for name, tensor in state.items() if name not in tied[-1]}
        file = _file(weights, path, number)
        if not file.exists():
            weights.write(kept, file)
    return tied


def _assign_weights(weights: Weights, pipeline: Any, path: Path, tied: list[dict[str, str]]) -> None:
    for number, module in enumerate(modules_of(pipeline)):
        state = weights.read(_file(weights, path, number))
        state |= {name: state[owner] for name, owner in tied[number].items()}
        module.load_state_dict(state, assign=True)
        module.eval()


def _file(weights: Weights, path: Path, number: int) -> Path:
    return path.with_name(f"weights-{number}.{weights.suffix}")


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


class Pretrained:
    """transformers' own `save_pretrained` and `from_pretrained`, in safetensors files."""

    def save(self, pipeline: Any, path: Path, build: Build) -> None:
        pipeline.save_pretrained(path)

    def load(self, path: Path) -> Any:
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        return AutoModel.from_pretrained(path).eval()


class TorchScriptFile:
    """`torch.jit.save` and `torch.jit.load`."""

    def save(self, pipeline: Any, path: Path, build: Build) -> None:
        torch.jit.save(pipeline, str(path))

    def load(self, path: Path) -> Any:
        return torch.jit.load(str(path))


class Entry(NamedTuple):
    """A format's name, what makes it, and for which cases it is."""

    title: str
    make: Callable[[], Format]
    suits: Callable[[Case], bool]


def _eager(case: Case) -> bool:
    return not case.scripted


OURS = "ray_zerocopy"

FORMATS = {
    OURS: Entry("ray_zerocopy", OurFile, lambda case: True),
    "from_pretrained": Entry("`from_pretrained`", Pretrained, lambda case: case.pretrained),
    "safetensors_built": Entry("safetensors, module built anew", lambda: BuiltWithWeights(_safetensors()), _eager),
    "torch_load_built": Entry(
        "`torch.load(mmap=True)`, module built anew", lambda: BuiltWithWeights(_torch_load()), _eager
    ),
    "safetensors": Entry("safetensors, module unpickled", lambda: PickledWithWeights(_safetensors()), _eager),
    "torch_load": Entry("`torch.load(mmap=True)`, module unpickled", lambda: PickledWithWeights(_torch_load()), _eager),
    "torch_jit": Entry("`torch.jit.load`", TorchScriptFile, lambda case: case.scripted),
}
