"""The models of a pipeline: what counts as one, where they are, and the pipeline without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram

from ray_zerocopy import store
from ray_zerocopy.compiled import CompiledProgram
from ray_zerocopy.image import Image, freeze, paths, thaw


def is_model(cls: type) -> bool:
    """Whether objects of this class are units that workers run."""
    return issubclass(cls, (nn.Module, ExportedProgram, CompiledProgram))


class Parts(NamedTuple):
    """A pipeline taken apart: its outermost models, and the rest of it, with a hole for each."""

    models: list[Any]
    rest: Image

    def put_together(self, models: Sequence[Any]) -> Any:
        """A copy of the pipeline with others in the places of its models, in the order of `models`."""
        substitutes = iter(models)
        externals = [next(substitutes) if is_model(type(obj)) else obj for obj in self.rest.externals]
        rest = dataclasses.replace(self.rest, externals=tuple(externals))
        if not rest.segments:
            return thaw(rest)
        return store.load(store.publish(rest)).root  # bulk bytes outside models are shared rather than copied, too


def take_apart(pipeline: Any) -> Parts:
    """Find the outermost models of a pipeline, wherever pickle finds them: attributes, containers, closures.

    Raises:
        TypeError: the rest of the pipeline cannot be pickled; the message gives the path.
    """
    rest = freeze(pipeline, external=lambda cls: is_model(cls) or store.is_ray_reference(cls))
    return Parts([obj for obj in rest.externals if is_model(type(obj))], rest)


def paths_of(models: Sequence[Any], pipeline: Any) -> list[str]:
    """Where each model is within the pipeline, beginning with `pipeline`: `pipeline.stages['a'][0]`."""
    found = paths.find(pipeline, models, "pipeline")
    return [found.get(id(model), f"pipeline.<model {i}>") for i, model in enumerate(models)]


def _modules(model: Any) -> Iterator[nn.Module]:
    if isinstance(model, nn.Module):
        yield from model.modules()


def check_holds_script(pipeline: Any) -> None:
    """Raise a TypeError unless the pipeline holds a TorchScript module, itself or within one of its models."""
    models = take_apart(pipeline).models
    if not any(isinstance(part, torch.jit.ScriptModule) for model in models for part in _modules(model)):
        found = ", ".join(sorted({type(model).__name__ for model in models})) or "no model at all"
        raise TypeError(
            f"Expected torch.jit.ScriptModule somewhere in the pipeline (a {type(pipeline).__name__}), found {found}. "
            "For other models there are TaskWrapper and ActorWrapper."
        )
