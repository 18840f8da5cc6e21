"""`ZeroCopyModel`: the older interface to models in the object store."""

from __future__ import annotations

from typing import Any, TypeVar

import ray
from torch import nn

from ray_zerocopy.older.rewrite import replace_tensors
from ray_zerocopy.tasks.stand_ins import StandIn, source_of, with_stand_ins
from ray_zerocopy.transport import store

P = TypeVar("P")


class ZeroCopyModel:
    """Models in the object store, by reference."""

    @staticmethod
    def to_object_ref(stand_in: StandIn) -> ray.ObjectRef[Any]:
        """A reference to the model that a stand-in of a rewritten pipeline stands for.

        Raises:
            TypeError: `stand_in` is not one.
        """
        if not isinstance(stand_in, StandIn):
            raise TypeError(f"Expected a model of a rewritten pipeline, got a {type(stand_in).__name__}.")
        return ray.put(source_of(stand_in))

    @staticmethod
    def from_object_ref(value: Any) -> Any:
        """A model of the caller's own, its weights the node's one copy until they are written to.

        Args:
            value: a reference to a model (from `to_object_ref`, `prepare_model_for_actors`, or `ray.put` of what
                `extract_tensors` returned), or what Ray made of such a reference as an argument of a task.

        Raises:
            TypeError: it is something else.
            ModelLostError: the process that owned the model has ended, or its node is gone.
        """
        if isinstance(value, ray.ObjectRef):
            value = store.get(value)
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], nn.Module):
            skeleton, tensors = value
            replace_tensors(skeleton, tensors)
            return skeleton
        return store.load(value).root

    @staticmethod
    def rewrite(pipeline: P) -> P:
        """A copy of the pipeline whose models are stand-ins, run by Ray tasks; the pipeline itself is not changed."""
        return with_stand_ins(pipeline, ("__call__",))
