"""Pipelines for actors: published by whoever makes the actor, loaded whole inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ray

from ray_zerocopy.image import Image, freeze_each
from ray_zerocopy.image.devices import Device, present
from ray_zerocopy.image.held import Held
from ray_zerocopy.image.models import (
    check_holds_model,
    check_is_object,
    checked_names,
    paths_of,
    pipeline_roots,
    take_apart,
)
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.transport import store
from ray_zerocopy.transport.saved import FileSource


class PipelineSkeleton(NamedTuple):
    """What an actor needs, beside the references to the models, to load a pipeline: small to pickle."""

    image: store.Published
    model_names: frozenset[str]
    description: str = "a pipeline"
    """What errors call it."""
    file: FileSource | None = None
    """Where it is loaded from on a node that has this file."""
    name: str | None = None
    """What it was found by."""


class FrozenPipeline(NamedTuple):
    """A pipeline on its way to actors."""

    image: Image
    """Its skeletons are the pipeline's, then those of its models."""
    models: tuple[str, ...]
    """Where each outermost model that is shared is within the pipeline: `pipeline.stages['a'][0]`."""
    description: str
    held: Held


def freeze_pipeline(pipeline: Any, model_attr_names: Sequence[str] | None, *, join: bool = True) -> FrozenPipeline:
    """Freeze a whole pipeline.

    Args:
        pipeline: any picklable object holding models; it is not changed.
        model_attr_names: attributes whose weights are to be shared; all else is private to each load. None: share all.
        join: whether segments are to be few and large; False: as many as parts that may be equal to other models'.

    Raises:
        AttributeError: the pipeline lacks one of `model_attr_names`.
        TypeError: something in the pipeline cannot be pickled; it holds neither a model nor a tensor nor an array, or
            is a class or a path; or `model_attr_names` is not a sequence of names.
    """
    check_is_object(pipeline)
    share = None
    if model_attr_names is not None:
        names = checked_names(model_attr_names, "attribute names, such as ('encoder',)")
        share = [_attribute(pipeline, name) for name in names]
    models = take_apart(pipeline if share is None else share).models
    paths = paths_of(models, pipeline)
    frozen = freeze_each(pipeline_roots(pipeline, paths, models), external=is_ray_reference, share=share, join=join)
    if not frozen.content.block_count:
        all_models = models if share is None else take_apart(pipeline).models
        check_holds_model(pipeline, all_models, alternative=", a tensor or a numpy array")
    name = type(pipeline).__name__
    held = Held(name, tuple((path, type(m).__name__) for path, m in zip(paths, models, strict=True)), frozen.nbytes)
    return FrozenPipeline(frozen, tuple(paths), description_of(name), held)


def description_of(class_name: str) -> str:
    """What errors call a pipeline of this class."""
    return f"a pipeline ({class_name})"


def published_pipeline(
    image: store.Published, models: Sequence[str], description: str, file: FileSource | None = None
) -> tuple[PipelineSkeleton, dict[str, ray.ObjectRef[Any]]]:
    """What actors load a pipeline from.

    Args:
        image: where the image of a `FrozenPipeline` was published.
        models: the other parts of it.
        description: likewise.
        file: where nodes that have it load the pipeline from.

    Returns:
        The skeleton, and a reference for each outermost model that is shared, by its path within the pipeline
        (`encoder`, `stages['a'][0]`; `pipeline` where that is a model itself).
    """
    skeletons = dict.fromkeys(["pipeline", *models])
    number_of = {path: number for number, path in enumerate(skeletons)}
    refs = {
        path.removeprefix("pipeline."): ray.put(store.ModelInImage(image, number_of[path], f"{path} of {description}"))
        for path in models
    }
    return PipelineSkeleton(image, frozenset(refs), description, file), refs


def publish_pipeline(
    pipeline: Any, model_attr_names: Sequence[str] | None
) -> tuple[PipelineSkeleton, dict[str, ray.ObjectRef[Any]]]:
    """Freeze a whole pipeline and publish it, as one object of this process.

    Returns:
        As `published_pipeline`.

    Raises:
        AttributeError, TypeError: as `freeze_pipeline`.
    """
    frozen = freeze_pipeline(pipeline, model_attr_names)
    return published_pipeline(store.publish(frozen.image), frozen.models, frozen.description)


def load_pipeline_in_actor(
    pipeline_skeleton: PipelineSkeleton,
    model_refs: Mapping[str, ray.ObjectRef[Any]],
    device: Device | None = None,
    use_fast_load: bool = False,
) -> Any:
    """Load a pipeline that was prepared for actors: `load_pipeline_in_actor(**wrapper.constructor_kwargs)`.

    Args:
        pipeline_skeleton: from `constructor_kwargs`.
        model_refs: likewise; holding them keeps the weights in the object store.
        device: where the pipeline's tensors go; None: the CPU, sharing the node's one copy until they are written to.
        use_fast_load: accepted for compatibility; loading is always fast.

    Returns:
        A pipeline of its own, models in eval mode.

    Raises:
        TypeError: `pipeline_skeleton` is something else.
        ValueError: `model_refs` are not the skeleton's; or `device` is not a device.
        RuntimeError: this process lacks the device.
        ModelLostError: the process that wrapped the pipeline has ended, or the node that has the weights is gone.
    """
    if not isinstance(pipeline_skeleton, PipelineSkeleton):
        raise TypeError(
            f"Expected the pipeline_skeleton of an actor wrapper, got a {type(pipeline_skeleton).__name__}."
        )
    if set(model_refs) != pipeline_skeleton.model_names:
        raise ValueError(
            f"Expected model_refs named {sorted(pipeline_skeleton.model_names)}, as they were prepared with this "
            f"pipeline_skeleton, got {sorted(model_refs)}."
        )
    image, _, description, file, name = pipeline_skeleton
    return store.load(store.ModelInImage(image, 0, description, file, name), present(device)).root


def _attribute(pipeline: Any, name: str) -> Any:
    try:
        return getattr(pipeline, name)
    except AttributeError as error:
        raise AttributeError(
            f"model_attr_names names {name!r}, which the pipeline (a {type(pipeline).__name__}) does not have."
        ) from error
