"""TorchScript modules for actors: the older interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch

from ray_zerocopy.image import freeze
from ray_zerocopy.image.devices import Device, checked
from ray_zerocopy.image.models import check_holds_script
from ray_zerocopy.image.parts import ImageParts
from ray_zerocopy.older import actor
from ray_zerocopy.transport import pipelines, store
from ray_zerocopy.transport.pipelines import PipelineSkeleton


def prepare_jit_model_for_actors(jit_model: torch.jit.ScriptModule) -> ray.ObjectRef[ImageParts]:
    """Publish one TorchScript module, for `load_jit_model_in_actor`.

    Raises:
        TypeError: it is none, or TorchScript cannot save it.
    """
    if not isinstance(jit_model, torch.jit.ScriptModule):
        raise TypeError(f"Expected torch.jit.ScriptModule, got a {type(jit_model).__name__}.")
    return store.publish(freeze(jit_model, name="model"))


def load_jit_model_in_actor(model_ref: ray.ObjectRef[Any], device: Device | None = None) -> torch.jit.ScriptModule:
    """Load one module, of the caller's own, in eval mode. Arguments and errors: as `load_model_in_actor`."""
    model: torch.jit.ScriptModule = actor.load_model_in_actor(model_ref, device)
    return model


def rewrite_pipeline_for_actors(
    pipeline: Any, model_attr_names: Sequence[str] | None = None, device: Device | None = None
) -> tuple[PipelineSkeleton, dict[str, ray.ObjectRef[Any]]]:
    """Publish a pipeline with TorchScript modules, for `load_pipeline_in_actor`.

    Args:
        pipeline: any picklable object holding TorchScript modules; it is not changed.
        model_attr_names: attributes whose weights are to be shared; None: share all.
        device: checked here, and to be given to `load_pipeline_in_actor`.

    Raises:
        AttributeError: the pipeline lacks one of `model_attr_names`.
        TypeError: the pipeline holds no TorchScript module, or something in it cannot be pickled.
        ValueError: `device` is not a device.
    """
    checked(device)
    check_holds_script(pipeline)
    return pipelines.publish_pipeline(pipeline, model_attr_names)


def load_pipeline_in_actor(
    pipeline_skeleton: PipelineSkeleton,
    model_refs: Mapping[str, ray.ObjectRef[Any]],
    device: Device | None = None,
) -> Any:
    """Load a pipeline that was prepared for actors. Arguments and errors: as `ray_zerocopy.load_pipeline_in_actor`."""
    return pipelines.load_pipeline_in_actor(pipeline_skeleton, model_refs, device)
