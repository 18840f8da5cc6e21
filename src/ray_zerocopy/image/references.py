"""Ray's references and actors, which stay outside of an image."""

from __future__ import annotations

import ray
from ray.actor import ActorHandle


def is_ray_reference(cls: type) -> bool:
    """Whether Ray must pickle objects of this class itself, as part of one of its own objects, to count their users."""
    return issubclass(cls, (ray.ObjectRef, ActorHandle))
