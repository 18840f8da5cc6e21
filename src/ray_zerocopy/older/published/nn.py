"""0.2.0's functions for pipelines with `torch.nn.Module`s. Their import paths are those of `ray_zerocopy.nn`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ray
from torch import nn

from ray_zerocopy.older.deprecation import warn_deprecated
from ray_zerocopy.older.published import pipelines
from ray_zerocopy.older.published.pipelines import ActorModelInfo, TaskModelInfo

P = TypeVar("P")


def prepare_pipeline(
    pipeline: P,
    model_attr_names: Sequence[str] | None = None,
    method_names: Sequence[str] | None = None,
    filter_private: bool = False,
) -> tuple[P, TaskModelInfo]:
    """Deprecated: use `ActorWrapper`, or `TaskWrapper` for tasks. Publish the modules among a pipeline's attributes.

    Args:
        pipeline: it is not changed.
        model_attr_names: the attributes to publish; None: all that are modules.
        method_names: the modules' methods that run as tasks, besides `__call__`; None: the modules are for actors.
        filter_private: whether attributes that begin with an underscore are left where they are.

    Returns:
        The skeleton, which is a shallow copy of the pipeline with None in the modules' places; and for each attribute
        a reference to the module and its methods that run as tasks.

    Raises:
        AttributeError: the pipeline lacks one of `model_attr_names`.
        TypeError: something in a module cannot be pickled; the message gives the path to it.
    """
    warn_deprecated("nn.prepare_pipeline", "ActorWrapper(pipeline), or TaskWrapper(pipeline) for tasks")
    return pipelines.publish(pipeline, nn.Module, model_attr_names, method_names, leave_private=filter_private)


def load_pipeline_for_actors(
    pipeline_skeleton: P, model_refs: Mapping[str, ray.ObjectRef[Any]], use_fast_load: bool = False
) -> P:
    """Deprecated: use `ActorWrapper.load`. A pipeline of the caller's own, modules in eval mode, parameters frozen.

    Args:
        pipeline_skeleton: from `prepare_pipeline`.
        model_refs: from `model_info_to_model_refs`.
        use_fast_load: accepted for compatibility; loading is always fast.

    Raises:
        TypeError: a reference leads to something else.
        ModelLostError: the process that prepared the pipeline has ended, or its node is gone.
    """
    warn_deprecated("nn.load_pipeline_for_actors", "ActorWrapper(pipeline).load()")
    return pipelines.load(pipeline_skeleton, model_refs, grad=False)


def load_pipeline_for_tasks(pipeline_skeleton: P, model_info: TaskModelInfo) -> P:
    """Deprecated: use `TaskWrapper`. The pipeline with stand-ins for its modules, whose calls run as tasks.

    Args:
        pipeline_skeleton: from `prepare_pipeline`.
        model_info: likewise; modules that were prepared without `method_names` stay None.

    Raises:
        TypeError: a reference leads to something else.
        ModelLostError: the process that prepared the pipeline has ended, or its node is gone.
    """
    warn_deprecated("nn.load_pipeline_for_tasks", "TaskWrapper(pipeline)")
    return pipelines.with_stand_ins(pipeline_skeleton, model_info)


def rewrite_pipeline(pipeline: P, method_names: Sequence[str] = ("__call__",)) -> P:
    """Deprecated: use `TaskWrapper`. `prepare_pipeline` and `load_pipeline_for_tasks` in one.

    Raises:
        TypeError: something in a module cannot be pickled; the message gives the path to it.
    """
    warn_deprecated("nn.rewrite_pipeline", "TaskWrapper(pipeline)")
    return pipelines.with_stand_ins(*pipelines.publish(pipeline, nn.Module, method_names=method_names))


def model_info_to_model_refs(model_info: TaskModelInfo) -> ActorModelInfo:
    """Deprecated: use `ActorWrapper`. The references of what `prepare_pipeline` returned, without the methods."""
    warn_deprecated("nn.model_info_to_model_refs", 'ActorWrapper(pipeline).constructor_kwargs["model_refs"]')
    return pipelines.model_refs_of(model_info)
