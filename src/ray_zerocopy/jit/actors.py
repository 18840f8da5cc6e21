"""The interface of 0.2.0: see `ray_zerocopy.older.published.jit`."""

from ray_zerocopy.older.jit.actor import (
    load_jit_model_in_actor,
    prepare_jit_model_for_actors,
)
from ray_zerocopy.older.published.jit import (
    load_pipeline_for_actors,
    model_info_to_model_refs,
    prepare_pipeline_for_actors,
)

__all__ = [
    "load_jit_model_in_actor",
    "load_pipeline_for_actors",
    "model_info_to_model_refs",
    "prepare_jit_model_for_actors",
    "prepare_pipeline_for_actors",
]
