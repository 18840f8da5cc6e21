"""0.2.0's functions for pipelines with TorchScript modules. Their import paths are those of `ray_zerocopy.jit`.

Those that an older interface has as well are that one's: see `ray_zerocopy.older.jit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ray
import torch

from ray_zerocopy.older.deprecation import warn_deprecated
from ray_zerocopy.older.published import pipelines
from ray_zerocopy.older.published.pipelines import ActorModelInfo, TaskModelInfo

P = TypeVar("P")

TASK_METHODS = ("__call__", "forward")
"""The methods of a TorchScript module that run as tasks without being named."""


def prepare_pipeline_for_actors(pipeline: P, model_attr_names: Sequence[str] | None = None) -> tuple[P, ActorModelInfo]:
    """Deprecated: use `JITActorWrapper`. Publish the TorchScript modules among a pipeline's attributes.

    Args:
        pipeline: it is not changed.
        model_attr_names: the attributes to publish; None: all that are TorchScript modules and have no underscore
            before their names.

    Returns:
        The skeleton, which is a shallow copy of the pipeline with None in the modules' places; and for each attribute
        a reference to the module.

    Raises:
        AttributeError: the pipeline lacks one of `model_attr_names`.
        TypeError: TorchScript cannot save one of the modules.
    """
    warn_deprecated("jit.prepare_pipeline_for_actors", "JITActorWrapper(pipeline)")
    skeleton, info = pipelines.publish(pipeline, torch.jit.ScriptModule, model_attr_names, leave_private=True)
    return skeleton, pipelines.model_refs_of(info)


def load_pipeline_for_actors(pipeline_skeleton: P, model_refs: Mapping[str, ray.ObjectRef[Any]]) -> P:
    """Deprecated: use `JITActorWrapper.load`. A pipeline of the caller's own, models in eval mode.

    Args:
        pipeline_skeleton: from `prepare_pipeline_for_actors`.
        model_refs: likewise.

    Raises:
        TypeError: a reference leads to something else.
        ModelLostError: the process that prepared the pipeline has ended, or its node is gone.
    """
    warn_deprecated("jit.load_pipeline_for_actors", "JITActorWrapper(pipeline).load()")
    return pipelines.load(pipeline_skeleton, model_refs, grad=True)


def prepare_pipeline_for_tasks(
    pipeline: P, method_names: Sequence[str] | None = None, filter_private: bool = False
) -> tuple[P, TaskModelInfo]:
    """Deprecated: use `JITTaskWrapper`. Publish the TorchScript modules among a pipeline's attributes.

    Args:
        pipeline: it is not changed.
        method_names: the modules' methods that run as tasks, besides `__call__`; None: `forward`.
        filter_private: whether attributes that begin with an underscore are left where they are.

    Returns:
        The skeleton, as `prepare_pipeline_for_actors`; and for each attribute a reference to the module and its methods
        that run as tasks.

    Raises:
        TypeError: TorchScript cannot save one of the modules.
    """
    warn_deprecated("jit.prepare_pipeline_for_tasks", "JITTaskWrapper(pipeline)")
    methods = TASK_METHODS if method_names is None else method_names
    return pipelines.publish(pipeline, torch.jit.ScriptModule, method_names=methods, leave_private=filter_private)


def load_pipeline_for_tasks(pipeline_skeleton: P, model_info: TaskModelInfo) -> P:
    """Deprecated: use `JITTaskWrapper`. The pipeline with stand-ins for its modules, whose calls run as tasks.

    Args:
        pipeline_skeleton: from `prepare_pipeline_for_tasks`.
        model_info: likewise.

    Raises:
        TypeError: a reference leads to something else.
        ModelLostError: the process that prepared the pipeline has ended, or its node is gone.
    """
    warn_deprecated("jit.load_pipeline_for_tasks", "JITTaskWrapper(pipeline)")
    return pipelines.with_stand_ins(pipeline_skeleton, model_info)


def model_info_to_model_refs(model_info: TaskModelInfo) -> ActorModelInfo:
    """Deprecated: use `JITActorWrapper`. The references of what `prepare_pipeline_for_tasks` returned."""
    warn_deprecated("jit.model_info_to_model_refs", 'JITActorWrapper(pipeline).constructor_kwargs["model_refs"]')
    return pipelines.model_refs_of(model_info)
