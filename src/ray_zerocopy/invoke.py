"""The older interface: see `ray_zerocopy.older.invoke`."""

from ray_zerocopy.older.invoke import (
    call_model,
    replace_tensors,
    rewrite_pipeline,
)

__all__ = [
    "call_model",
    "replace_tensors",
    "rewrite_pipeline",
]
