"""The older interface: see `ray_zerocopy.older.jit.rewrite`."""

from ray_zerocopy.older.jit.rewrite import (
    extract_tensors,
    extract_tensors_minimal,
    replace_tensors,
)

__all__ = [
    "extract_tensors",
    "extract_tensors_minimal",
    "replace_tensors",
]
