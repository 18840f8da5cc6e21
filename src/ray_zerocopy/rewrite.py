"""The older interface: see `ray_zerocopy.older.rewrite`."""

from ray_zerocopy.older.rewrite import (
    ModuleArrays,
    extract_tensors,
    replace_tensors,
    replace_tensors_direct,
)

__all__ = [
    "ModuleArrays",
    "extract_tensors",
    "replace_tensors",
    "replace_tensors_direct",
]
