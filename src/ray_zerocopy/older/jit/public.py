"""`ZeroCopyModel` for TorchScript modules: the older interface to models in the object store."""

from __future__ import annotations

from typing import Any, TypeVar

import ray

from ray_zerocopy.image.models import check_holds_script
from ray_zerocopy.older import public
from ray_zerocopy.older.jit.rewrite import replace_tensors
from ray_zerocopy.tasks.stand_ins import with_stand_ins

P = TypeVar("P")


class ZeroCopyModel(public.ZeroCopyModel):
    """TorchScript modules in the object store, by reference."""

    @staticmethod
    def from_object_ref(value: Any) -> Any:
        """A module of the caller's own, its weights the node's one copy until they are written to.

        Args:
            value: as for `ray_zerocopy.ZeroCopyModel`, or what the functions `extract_tensors` here returned.

        Raises:
            TypeError: it is something else.
        """
        if isinstance(value, ray.ObjectRef):
            value = ray.get(value)
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bytes):
            return replace_tensors(*value)
        return public.ZeroCopyModel.from_object_ref(value)

    @staticmethod
    def rewrite(pipeline: P) -> P:
        """A copy of the pipeline whose models are stand-ins, run by Ray tasks; the pipeline itself is not changed.

        Raises:
            TypeError: the pipeline holds no TorchScript module.
        """
        check_holds_script(pipeline)
        return with_stand_ins(pipeline, ("__call__", "forward"))
