"""The older interface to TorchScript modules; `JITTaskWrapper` and `JITActorWrapper` are the present one."""

from ray_zerocopy.older.jit import actor
from ray_zerocopy.older.jit.invoke import call_model, rewrite_pipeline
from ray_zerocopy.older.jit.public import ZeroCopyModel
from ray_zerocopy.older.jit.rewrite import extract_tensors, extract_tensors_minimal, replace_tensors

__all__ = [
    "ZeroCopyModel",
    "actor",
    "call_model",
    "extract_tensors",
    "extract_tensors_minimal",
    "replace_tensors",
    "rewrite_pipeline",
]
