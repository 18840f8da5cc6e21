"""The interface of 0.2.0: see `ray_zerocopy.older.published.wrappers`."""

from ray_zerocopy.older.published.wrappers import (
    ActorModelInfo,
    ModelInfo,
    ModelWrapper,
    TaskModelInfo,
)

__all__ = [
    "ActorModelInfo",
    "ModelInfo",
    "ModelWrapper",
    "TaskModelInfo",
]
