"""Pipelines as 0.2.0 takes them: the models are attributes, and all else is the skeleton, a shallow copy."""

from __future__ import annotations

import copy
import types
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import ray
import torch
from torch import nn

from ray_zerocopy.image import freeze, freeze_each, thaw
from ray_zerocopy.image.models import check_is_object
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.older.jit.public import ZeroCopyModel
from ray_zerocopy.tasks.remote import RemoteModel
from ray_zerocopy.tasks.stand_ins import Original, StandIn, source_of, stand_in_for
from ray_zerocopy.transport import store
from ray_zerocopy.transport.pipelines import description_of

P = TypeVar("P")

ActorModelInfo: TypeAlias = dict[str, "ray.ObjectRef[Any]"]
"""The reference to each model, by the attribute that it was."""
TaskModelInfo: TypeAlias = dict[str, "tuple[ray.ObjectRef[Any], set[str] | None]"]
"""Likewise, with the methods that run as tasks; None: the model is for actors alone."""
ModelInfo: TypeAlias = TaskModelInfo | ActorModelInfo


class _Models(types.SimpleNamespace):
    """All models of a pipeline, by their attributes: loaded together, they go on sharing what they shared.

    They are the first skeleton of their image, in which each model also has one of its own, in the same order.
    """


class _GradlessModel(RemoteModel):
    """A model whose tasks run without autograd, whatever the caller's mode is."""

    def invoke(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return super().invoke(method, *args, **kwargs)


class _GradlessStandIn(StandIn):
    """The stand-in for such a model."""

    __slots__ = ()

    def __init__(self, original: Original, image: store.Published) -> None:
        super().__init__(original, image)
        object.__setattr__(self, "_ray_zerocopy_remote", _GradlessModel(source_of(self)))


def publish(
    pipeline: P,
    kind: type[nn.Module],
    names: Sequence[str] | None = None,
    method_names: Sequence[str] | None = None,
    *,
    leave_private: bool = False,
) -> tuple[P, TaskModelInfo]:
    """Publish the models among a pipeline's attributes, as one object.

    Args:
        pipeline: it is not changed.
        kind: the class of models that are published; others stay in the skeleton.
        names: the attributes; None: all, except for properties.
        method_names: the models' methods that run as tasks, besides `__call__`; None: the models are for actors alone.
        leave_private: whether attributes that begin with an underscore stay in the skeleton, if `names` is None.

    Returns:
        A shallow copy of the pipeline with None in the models' places, and what is to be known of each model.

    Raises:
        AttributeError: the pipeline lacks one of `names`.
        TypeError: the pipeline is a class or a path; or something in a model cannot be pickled, and the message gives
            the path to it.

    Warns:
        UserWarning: none of the attributes is a model; attributed to the caller of the function that called this.
    """
    check_is_object(pipeline)
    if names is None:
        names = [name for name in _attributes(pipeline) if not (leave_private and name.startswith("_"))]
    models = {name: model for name in names if isinstance(model := getattr(pipeline, name), kind)}
    skeleton = _with(pipeline, dict.fromkeys(models))
    if not models:
        warnings.warn(
            f"No attribute of the {type(pipeline).__name__} is a {kind.__name__}, so that nothing of it is shared. "
            "ray_zerocopy.ActorWrapper and TaskWrapper find models wherever they are in a pipeline.",
            stacklevel=3,
        )
        return skeleton, {}
    roots = {"pipeline": _Models(**models)} | {f"pipeline.{name}": model for name, model in models.items()}
    image = store.publish(freeze_each(roots, external=is_ray_reference, join=True))
    of_pipeline = description_of(type(pipeline).__name__)
    info: TaskModelInfo = {}
    for number, (name, model) in enumerate(models.items(), start=1):
        methods = None if method_names is None else {"__call__", *(m for m in method_names if hasattr(model, m))}
        info[name] = ray.put(store.ModelInImage(image, number, f"{name} of {of_pipeline}")), methods
    return skeleton, info


def load(skeleton: P, model_refs: Mapping[str, ray.ObjectRef[Any]], *, grad: bool) -> P:
    """A pipeline of the caller's own, models in eval mode.

    Args:
        skeleton: from `publish`. What it holds is the caller's own too, unless it cannot be pickled: then it has never
            left its process, and the pipeline that was published has the same attributes.
        model_refs: a reference to the model for each attribute.
        grad: whether the models' parameters keep their `requires_grad`; it is False in all of them otherwise.

    Raises:
        TypeError: a reference leads to something else.
        ModelLostError: the process that published the models has ended, or its node is gone.
    """
    models = _loaded(model_refs)
    if not grad:
        for parameter in (p for model in models.values() for p in model.parameters()):
            parameter.requires_grad_(False)
    return _with(_own(skeleton), models)


def with_stand_ins(skeleton: P, model_info: TaskModelInfo) -> P:
    """A shallow copy of the skeleton with stand-ins in the models' places, whose calls run as tasks without autograd.

    Args:
        skeleton: from `publish`.
        model_info: likewise; models without methods are left out.

    Raises:
        TypeError: a reference leads to something else.
        ModelLostError: the process that published the models has ended, or its node is gone.
    """
    methods_of = {name: (ref, methods) for name, (ref, methods) in model_info.items() if methods is not None}
    sources = store.get([ref for ref, _ in methods_of.values()])
    stand_ins = {}
    for (name, (ref, methods)), found in zip(methods_of.items(), sources, strict=True):
        source = found if isinstance(found, store.ModelInImage) else store.ModelInImage(ref, 0, name)
        image, number = store.fetch(source)
        original = Original.of(thaw(image, skeleton=number), number, None, source.description, tuple(methods))
        stand_ins[name] = stand_in_for(original.within(image), source.image, _GradlessStandIn)
    return _with(skeleton, stand_ins)


def model_refs_of(model_info: TaskModelInfo) -> ActorModelInfo:
    """The references alone."""
    return {name: ref for name, (ref, _) in model_info.items()}


def _attributes(pipeline: Any) -> list[str]:
    properties = {name for name in dir(type(pipeline)) if isinstance(getattr(type(pipeline), name, None), property)}
    return [name for name in dir(pipeline) if name not in properties]


def _own(skeleton: P) -> P:
    try:
        frozen = freeze(skeleton, external=is_ray_reference)
    except TypeError:  # it cannot be pickled
        return skeleton
    own: P = thaw(frozen)
    return own


def _with(pipeline: P, attributes: Mapping[str, Any]) -> P:
    """A shallow copy with other attributes."""
    made = copy.copy(pipeline)
    if isinstance(made, nn.Module):  # its copy has the same dict of submodules, and refuses stand-ins
        vars(made)["_modules"] = {**made._modules, **attributes}
        return made
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def _loaded(model_refs: Mapping[str, ray.ObjectRef[Any]]) -> dict[str, Any]:
    first: dict[Hashable, Any] = {}
    models = {}
    for name, found in zip(model_refs, store.get(list(model_refs.values())), strict=True):
        root = None
        if isinstance(found, store.ModelInImage):
            if found.image not in first:
                first[found.image] = store.load(found._replace(skeleton=0)).root
            root = first[found.image]
        if isinstance(root, _Models):
            models[name] = list(vars(root).values())[found.skeleton - 1]
        else:  # from another function: prepare_jit_model_for_actors, or ray.put(jit.extract_tensors(module))
            models[name] = ZeroCopyModel.from_object_ref(found)
    return models
