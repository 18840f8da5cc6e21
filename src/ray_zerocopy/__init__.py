"""PyTorch models shared by any number of Ray workers: one copy of the weights a node, loaded in milliseconds.

A worker may write to its weights; nobody else sees it. `TaskWrapper` runs a pipeline's models as Ray tasks,
`ActorWrapper` loads the pipeline whole in actors. The other names are the older interface to the same.
"""

from ray_zerocopy.actor import (
    load_model_in_actor,
    load_pipeline_in_actor,
    prepare_model_for_actors,
    rewrite_pipeline_for_actors,
)
from ray_zerocopy.compiled import CompiledProgram
from ray_zerocopy.invoke import call_model, rewrite_pipeline
from ray_zerocopy.public import ZeroCopyModel
from ray_zerocopy.rewrite import extract_tensors, replace_tensors
from ray_zerocopy.wrappers import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper

__all__ = [
    "ActorWrapper",
    "CompiledProgram",
    "JITActorWrapper",
    "JITTaskWrapper",
    "TaskWrapper",
    "ZeroCopyModel",
    "call_model",
    "extract_tensors",
    "load_model_in_actor",
    "load_pipeline_in_actor",
    "prepare_model_for_actors",
    "replace_tensors",
    "rewrite_pipeline",
    "rewrite_pipeline_for_actors",
]
