"""The older interface: see `ray_zerocopy.older.jit.public`."""

from ray_zerocopy.older.jit.public import (
    ZeroCopyModel,
)

__all__ = [
    "ZeroCopyModel",
]
