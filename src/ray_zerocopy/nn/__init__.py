"""The interface of 0.2.0 to `torch.nn.Module`s; `TaskWrapper` and `ActorWrapper` are the present one."""

from ray_zerocopy.nn.actors import load_pipeline_for_actors
from ray_zerocopy.nn.rewrite import model_info_to_model_refs, prepare_pipeline
from ray_zerocopy.nn.tasks import load_pipeline_for_tasks, rewrite_pipeline

__all__ = [
    "load_pipeline_for_actors",
    "load_pipeline_for_tasks",
    "model_info_to_model_refs",
    "prepare_pipeline",
    "rewrite_pipeline",
]
