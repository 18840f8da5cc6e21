"""PyTorch models shared by any number of Ray workers: one copy of the weights a node, loaded in milliseconds.

A worker may write to its weights; nobody else sees it. `TaskWrapper` runs a pipeline's models as Ray tasks,
`ActorWrapper` loads the pipeline whole in actors.
"""

from ray_zerocopy.wrappers import ActorWrapper, TaskWrapper

__all__ = ["ActorWrapper", "TaskWrapper"]
