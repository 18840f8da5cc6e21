"""The older interfaces to TorchScript modules; `JITTaskWrapper` and `JITActorWrapper` are the present one."""

from ray_zerocopy.jit import actor
from ray_zerocopy.jit.actors import (
    load_jit_model_in_actor,
    load_pipeline_for_actors,
    model_info_to_model_refs,
    prepare_jit_model_for_actors,
    prepare_pipeline_for_actors,
)
from ray_zerocopy.jit.invoke import call_model, rewrite_pipeline
from ray_zerocopy.jit.public import ZeroCopyModel
from ray_zerocopy.jit.rewrite import extract_tensors, extract_tensors_minimal, replace_tensors
from ray_zerocopy.jit.tasks import load_pipeline_for_tasks, prepare_pipeline_for_tasks

__all__ = [
    "ZeroCopyModel",
    "actor",
    "call_model",
    "extract_tensors",
    "extract_tensors_minimal",
    "load_jit_model_in_actor",
    "load_pipeline_for_actors",
    "load_pipeline_for_tasks",
    "model_info_to_model_refs",
    "prepare_jit_model_for_actors",
    "prepare_pipeline_for_actors",
    "prepare_pipeline_for_tasks",
    "replace_tensors",
    "rewrite_pipeline",
]
