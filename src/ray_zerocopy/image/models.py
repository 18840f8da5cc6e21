"""The models of a pipeline: what counts as one, where they are, and the pipeline without them."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram

from ray_zerocopy.compiled import CompiledProgram
from ray_zerocopy.image import Image, freeze, paths
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.onnx import OnnxModel


class PublishedModels:
    """Base of what stands for models that were published before: wrappers, and the stand-ins in their pipelines."""

    __slots__ = ()


_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def is_model(cls: type) -> bool:
    """Whether objects of this class are units that workers run.

    torch's containers are not: they cannot be called, unless a subclass has a `forward`. What they hold may be models.
    """
    if issubclass(cls, _CONTAINERS):
        return cls.forward is not nn.Module.forward
    return issubclass(cls, (nn.Module, ExportedProgram, CompiledProgram, OnnxModel))


class Parts(NamedTuple):
    """A pipeline taken apart: its outermost models, and the rest of it, with a hole for each."""

    models: list[Any]
    rest: Image

    def filled(self, others: Sequence[Any]) -> Image:
        """The rest of the pipeline with others in the places of its models, in the order of `models`."""
        substitutes = iter(others)
        externals = [next(substitutes) if is_model(type(obj)) else obj for obj in self.rest.externals]
        return dataclasses.replace(self.rest, externals=tuple(externals))


def take_apart(pipeline: Any) -> Parts:
    """Find the outermost models of a pipeline, wherever pickle finds them: attributes, containers, closures.

    Raises:
        TypeError: the rest of the pipeline cannot be pickled; the message gives the path.
    """
    rest = freeze(pipeline, external=lambda cls: is_model(cls) or is_ray_reference(cls))
    return Parts([obj for obj in rest.externals if is_model(type(obj))], rest)


def pipeline_roots(pipeline: Any, paths: Sequence[str], models: Sequence[Any]) -> dict[str, Any]:
    """What an image for actors has a skeleton of: the pipeline, and each of its outermost models.

    Args:
        pipeline: the first; where it is a model itself, it is there once.
        paths: where each model is within the pipeline.
        models: from `take_apart`.
    """
    return {"pipeline": pipeline} | dict(zip(paths, models, strict=True))


def paths_of(models: Sequence[Any], pipeline: Any) -> list[str]:
    """Where each model is within the pipeline, beginning with `pipeline`: `pipeline.stages['a'][0]`.

    No two are equal: where models have one path (their keys have one `repr`), all but the first are numbered.
    """
    found = paths.find(pipeline, models, "pipeline")
    distinct: dict[str, None] = {}
    for number, model in enumerate(models):
        path = name = found.get(id(model), f"pipeline.<model {number}>")
        count = 1
        while name in distinct:
            count += 1
            name = f"{path} ({count})"
        distinct[name] = None
    return list(distinct)


def checked_names(names: Sequence[str], expected: str) -> tuple[str, ...]:
    """The names given for an argument.

    Args:
        names: what was given.
        expected: what they should be names of, with an example.

    Raises:
        TypeError: they are not a sequence of `str`.
    """
    if not isinstance(names, str) and isinstance(names, Iterable):
        checked = tuple(names)
        if all(isinstance(name, str) for name in checked):
            return checked
    raise TypeError(f"Expected a sequence of {expected}, got {names!r}.")


def check_is_object(pipeline: Any) -> None:
    """Raise a TypeError for what is often given in place of a pipeline: its class, or the path of a file."""
    if isinstance(pipeline, type):
        raise TypeError(
            f"Expected an object that holds models, got the class {pipeline.__name__}. "
            f"Make an instance and give that: {pipeline.__name__}(...)."
        )
    if isinstance(pipeline, (str, os.PathLike)):
        raise TypeError(
            f"Expected an object that holds models, got {pipeline!r}. "
            "If that is where a model is stored, load the model and give what was loaded."
        )


def check_holds_model(pipeline: Any, models: Sequence[Any], *, alternative: str = "") -> None:
    """Raise a TypeError if `models`, those of the pipeline, are none, and it holds none that were published before.

    Args:
        pipeline: for the message.
        models: from `take_apart`.
        alternative: what else would have been accepted, for the message.
    """
    if not models and not _holds_published(pipeline):
        raise TypeError(
            f"Expected a model (torch.nn.Module, ExportedProgram, CompiledProgram, OnnxModel){alternative} somewhere "
            f"in the pipeline (a {type(pipeline).__name__}), found none. It must be part of the object: a global "
            "variable that the pipeline's code uses is not."
        )


def _holds_published(pipeline: Any) -> bool:
    def is_outside(cls: type) -> bool:
        return issubclass(cls, PublishedModels) or is_ray_reference(cls)

    return any(isinstance(found, PublishedModels) for found in freeze(pipeline, external=is_outside).externals)


def check_has_methods(models: Sequence[Any], names: Sequence[str]) -> None:
    """Raise an AttributeError for a name, other than `__call__` and `forward`, that is no method of any model."""
    for name in names:
        if name in ("__call__", "forward") or any(callable(getattr(model, name, None)) for model in models):
            continue
        methods = sorted({method for model in models for method in _methods(model)})
        own = [method for method in methods if any(method in vars(type(model)) for model in models)]
        close = difflib.get_close_matches(name, methods) or own
        found = f"; they have {', '.join(map(repr, close))}" if close else ""
        classes = ", ".join(sorted({type(model).__name__ for model in models}))
        raise AttributeError(
            f"method_names names {name!r}, which no model of the pipeline has (their classes: {classes}){found}."
        )


def _modules(model: Any) -> Iterator[nn.Module]:
    if isinstance(model, nn.Module):
        yield from model.modules()


def _methods(model: Any) -> Iterator[str]:
    """The names of its public methods; properties are not evaluated."""
    for name in dir(model):
        value = getattr(type(model) if hasattr(type(model), name) else model, name, None)
        if callable(value) and not name.startswith("_") and not isinstance(value, (type, nn.Module)):
            yield name


def check_holds_script(pipeline: Any) -> None:
    """Raise a TypeError unless the pipeline holds a TorchScript module, itself or within one of its models."""
    check_is_object(pipeline)
    models = take_apart(pipeline).models
    if not any(isinstance(part, torch.jit.ScriptModule) for model in models for part in _modules(model)):
        found = ", ".join(sorted({type(model).__name__ for model in models})) or "no model at all"
        raise TypeError(
            f"Expected torch.jit.ScriptModule somewhere in the pipeline (a {type(pipeline).__name__}), found {found}. "
            "For other models there are TaskWrapper and ActorWrapper."
        )
