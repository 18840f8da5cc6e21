"""The interface of 0.2.0: see `ray_zerocopy.older.published.nn`."""

from ray_zerocopy.older.published.nn import (
    model_info_to_model_refs,
    prepare_pipeline,
)

__all__ = [
    "model_info_to_model_refs",
    "prepare_pipeline",
]
