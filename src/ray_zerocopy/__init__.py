"""PyTorch models shared by any number of Ray workers: one copy of the weights a node, loaded in milliseconds.

A worker may write to its weights; nobody else sees it. `TaskWrapper` runs a pipeline's models as Ray tasks,
`ActorWrapper` loads the pipeline whole in actors; `get_wrapper` finds those that were given names. `save` and `load` do
without Ray, through a file. The other names are the older interface to the same.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_zerocopy._engine import ImageError
    from ray_zerocopy.actor import (
        load_model_in_actor,
        load_pipeline_in_actor,
        prepare_model_for_actors,
        rewrite_pipeline_for_actors,
    )
    from ray_zerocopy.checkpoints import load_checkpoint
    from ray_zerocopy.compiled import CompiledProgram
    from ray_zerocopy.errors import ModelLostError
    from ray_zerocopy.invoke import call_model, rewrite_pipeline
    from ray_zerocopy.keeper import KeptModel, list_models
    from ray_zerocopy.public import ZeroCopyModel
    from ray_zerocopy.rewrite import extract_tensors, replace_tensors
    from ray_zerocopy.saved import load
    from ray_zerocopy.saving import save
    from ray_zerocopy.wrappers import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper, get_wrapper

__all__ = [
    "ActorWrapper",
    "CompiledProgram",
    "ImageError",
    "JITActorWrapper",
    "JITTaskWrapper",
    "KeptModel",
    "ModelLostError",
    "TaskWrapper",
    "ZeroCopyModel",
    "call_model",
    "extract_tensors",
    "get_wrapper",
    "list_models",
    "load",
    "load_checkpoint",
    "load_model_in_actor",
    "load_pipeline_in_actor",
    "prepare_model_for_actors",
    "replace_tensors",
    "rewrite_pipeline",
    "rewrite_pipeline_for_actors",
    "save",
]

_MODULES = {
    "_engine": ("ImageError",),
    "actor": (
        "load_model_in_actor",
        "load_pipeline_in_actor",
        "prepare_model_for_actors",
        "rewrite_pipeline_for_actors",
    ),
    "checkpoints": ("load_checkpoint",),
    "compiled": ("CompiledProgram",),
    "errors": ("ModelLostError",),
    "invoke": ("call_model", "rewrite_pipeline"),
    "keeper": ("KeptModel", "list_models"),
    "public": ("ZeroCopyModel",),
    "rewrite": ("extract_tensors", "replace_tensors"),
    "saved": ("load",),
    "saving": ("save",),
    "wrappers": ("ActorWrapper", "JITActorWrapper", "JITTaskWrapper", "TaskWrapper", "get_wrapper"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that the keeper, which needs no torch, does not import it.
    module = name if name in _MODULES else _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    imported = importlib.import_module(f"{__name__}.{module}")
    if module == name:
        return imported
    value = globals()[name] = getattr(imported, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
