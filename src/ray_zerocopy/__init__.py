"""PyTorch models shared by any number of Ray workers: one copy of the weights a node, loaded in milliseconds.

A worker may write to its weights; nobody else sees it. `TaskWrapper` runs a pipeline's models as Ray tasks,
`ActorWrapper` loads the pipeline whole in actors; `get_wrapper` finds those that were given names. `save` and `load` do
without Ray, through a file. The other names are the older interface to the same.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_zerocopy._engine import ImageError
    from ray_zerocopy.compiled import CompiledProgram
    from ray_zerocopy.errors import ModelLostError
    from ray_zerocopy.monitoring.stats import MemoryStats, ModelMemory, memory_stats
    from ray_zerocopy.older.actor import (
        load_model_in_actor,
        prepare_model_for_actors,
        rewrite_pipeline_for_actors,
    )
    from ray_zerocopy.older.invoke import call_model, rewrite_pipeline
    from ray_zerocopy.older.public import ZeroCopyModel
    from ray_zerocopy.older.published.wrappers import JITModelWrapper, ModelWrapper
    from ray_zerocopy.older.rewrite import extract_tensors, replace_tensors
    from ray_zerocopy.onnx import OnnxModel
    from ray_zerocopy.transport.checkpoints import load_checkpoint
    from ray_zerocopy.transport.keeper import KeptModel, list_models
    from ray_zerocopy.transport.pipelines import load_pipeline_in_actor
    from ray_zerocopy.transport.saved import load
    from ray_zerocopy.transport.saving import save
    from ray_zerocopy.wrappers import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper, get_wrapper

    __version__: str

__all__ = [
    "ActorWrapper",
    "CompiledProgram",
    "ImageError",
    "JITActorWrapper",
    "JITModelWrapper",
    "JITTaskWrapper",
    "KeptModel",
    "MemoryStats",
    "ModelLostError",
    "ModelMemory",
    "ModelWrapper",
    "OnnxModel",
    "TaskWrapper",
    "ZeroCopyModel",
    "__version__",
    "call_model",
    "extract_tensors",
    "get_wrapper",
    "list_models",
    "load",
    "load_checkpoint",
    "load_model_in_actor",
    "load_pipeline_in_actor",
    "memory_stats",
    "prepare_model_for_actors",
    "replace_tensors",
    "rewrite_pipeline",
    "rewrite_pipeline_for_actors",
    "save",
]

_MODULES = {
    "_engine": ("ImageError",),
    "compiled": ("CompiledProgram",),
    "errors": ("ModelLostError",),
    "monitoring.stats": ("MemoryStats", "ModelMemory", "memory_stats"),
    "older.actor": (
        "load_model_in_actor",
        "prepare_model_for_actors",
        "rewrite_pipeline_for_actors",
    ),
    "older.invoke": ("call_model", "rewrite_pipeline"),
    "older.public": ("ZeroCopyModel",),
    "older.published.wrappers": ("JITModelWrapper", "ModelWrapper"),
    "older.rewrite": ("extract_tensors", "replace_tensors"),
    "onnx": ("OnnxModel",),
    "transport.checkpoints": ("load_checkpoint",),
    "transport.keeper": ("KeptModel", "list_models"),
    "transport.pipelines": ("load_pipeline_in_actor",),
    "transport.saved": ("load",),
    "transport.saving": ("save",),
    "wrappers": ("ActorWrapper", "JITActorWrapper", "JITTaskWrapper", "TaskWrapper", "get_wrapper"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

_OF_OLDER_PROGRAMS = ("actor", "invoke", "jit", "model_wrappers", "nn", "public", "rewrite", "wrappers")
"""Modules that are attributes of the package without an import of their own."""


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that the keeper, which needs no torch, does not import it.
    if name in _OF_OLDER_PROGRAMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__version__":
        return importlib.metadata.version("ray-zerocopy")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
