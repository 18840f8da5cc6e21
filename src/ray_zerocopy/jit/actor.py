"""The older interface: see `ray_zerocopy.older.jit.actor`."""

from ray_zerocopy.older.jit.actor import (
    load_jit_model_in_actor,
    load_pipeline_in_actor,
    prepare_jit_model_for_actors,
    rewrite_pipeline_for_actors,
)

__all__ = [
    "load_jit_model_in_actor",
    "load_pipeline_in_actor",
    "prepare_jit_model_for_actors",
    "rewrite_pipeline_for_actors",
]
