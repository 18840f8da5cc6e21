"""The interface of 0.2.0: see `ray_zerocopy.older.published.jit`."""

from ray_zerocopy.older.jit.invoke import (
    call_model,
    rewrite_pipeline,
)
from ray_zerocopy.older.published.jit import (
    load_pipeline_for_tasks,
    prepare_pipeline_for_tasks,
)

__all__ = [
    "call_model",
    "load_pipeline_for_tasks",
    "prepare_pipeline_for_tasks",
    "rewrite_pipeline",
]
