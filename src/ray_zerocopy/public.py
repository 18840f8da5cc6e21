"""The older interface: see `ray_zerocopy.older.public`."""

from ray_zerocopy.older.public import (
    ZeroCopyModel,
)

__all__ = [
    "ZeroCopyModel",
]
