"""Pipelines and models for actors: the older interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from torch import nn

from ray_zerocopy.image import freeze
from ray_zerocopy.image.devices import Device, checked, present
from ray_zerocopy.image.models import is_model
from ray_zerocopy.image.parts import ImageParts
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.older.deprecation import warn_deprecated
from ray_zerocopy.transport import store
from ray_zerocopy.transport.pipelines import PipelineSkeleton, publish_pipeline


def rewrite_pipeline_for_actors(
    pipeline: Any,
    model_attr_names: Sequence[str] | None = None,
    device: Device | None = None,
    use_fast_load: bool = False,
) -> tuple[PipelineSkeleton, dict[str, ray.ObjectRef[Any]]]:
    """Deprecated: use `ActorWrapper`, whose `constructor_kwargs` hold what this returns.

    Args:
        pipeline: any picklable object holding models; it is not changed.
        model_attr_names: attributes whose weights are to be shared; None: share all.
        device: checked here, and to be given to `load_pipeline_in_actor`.
        use_fast_load: accepted for compatibility; loading is always fast.

    Raises:
        AttributeError, TypeError: as `publish_pipeline`.
        ValueError: `device` is not a device.
    """
    warn_deprecated("rewrite_pipeline_for_actors", "ActorWrapper")
    checked(device)
    return publish_pipeline(pipeline, model_attr_names)


def prepare_model_for_actors(model: Any) -> ray.ObjectRef[ImageParts]:
    """Deprecated: use `ActorWrapper`. Publish one model, for `load_model_in_actor`.

    Raises:
        TypeError: it is not a model, or something in it cannot be pickled.
    """
    warn_deprecated("prepare_model_for_actors", "ActorWrapper")
    if not (is_model(type(model)) or isinstance(model, nn.Module)):
        raise TypeError(f"Expected a torch.nn.Module, got a {type(model).__name__}.")
    return store.publish(freeze(model, external=is_ray_reference, name="model"))


def load_model_in_actor(
    model_ref: ray.ObjectRef[Any], device: Device | None = None, use_fast_load: bool = False
) -> Any:
    """Load one model, of the caller's own, in eval mode.

    Args:
        model_ref: from `prepare_model_for_actors`, or one of an actor wrapper's `model_refs`.
        device: where its tensors go; None: the CPU, sharing the node's one copy until they are written to.
        use_fast_load: accepted for compatibility; loading is always fast.

    Raises:
        TypeError: the reference leads to something else.
        ValueError: `device` is not a device.
        RuntimeError: this process lacks the device.
    """
    return store.load(model_ref, present(device)).root
