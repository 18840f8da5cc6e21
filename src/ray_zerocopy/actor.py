"""The older interface: see `ray_zerocopy.older.actor`."""

from ray_zerocopy.older.actor import (
    load_model_in_actor,
    prepare_model_for_actors,
    rewrite_pipeline_for_actors,
)
from ray_zerocopy.transport.pipelines import PipelineSkeleton, load_pipeline_in_actor

__all__ = [
    "PipelineSkeleton",
    "load_model_in_actor",
    "load_pipeline_in_actor",
    "prepare_model_for_actors",
    "rewrite_pipeline_for_actors",
]
