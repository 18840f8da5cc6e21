"""The older interface: see `ray_zerocopy.older.jit.invoke`."""

from ray_zerocopy.older.jit.invoke import (
    call_model,
    rewrite_pipeline,
)

__all__ = [
    "call_model",
    "rewrite_pipeline",
]
