"""The interface of 0.2.0: see `ray_zerocopy.older.published.nn`."""

from ray_zerocopy.older.published.nn import (
    load_pipeline_for_actors,
)

__all__ = [
    "load_pipeline_for_actors",
]
