"""Models run by Ray tasks: the older interface, over stand-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ray
from torch import nn

from ray_zerocopy.image import Thawed
from ray_zerocopy.older.deprecation import warn_deprecated
from ray_zerocopy.older.numpy_bridge import as_tensors, key_of
from ray_zerocopy.older.rewrite import ModuleArrays, distinct_arrays, put_back, replace_tensors
from ray_zerocopy.tasks import residents
from ray_zerocopy.tasks.remote import check_has_ended
from ray_zerocopy.tasks.stand_ins import with_stand_ins

__all__ = ["call_model", "replace_tensors", "rewrite_pipeline"]

P = TypeVar("P")


@ray.remote
def call_model(
    model_ref: tuple[nn.Module, list[ModuleArrays]],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    method_name: str = "__call__",
) -> Any:
    """A Ray remote function: `call_model.remote(ray.put(extract_tensors(model)), args=(x,))`.

    Args:
        model_ref: a reference to what `extract_tensors` returned; Ray hands over what it leads to. The weights stay
            where they are in the object store; what the model writes to them, no other call sees.
        args: positional arguments of the method.
        kwargs: keyword arguments of the method.
        method_name: the model's method.

    Raises:
        TypeError: the method is asynchronous, or a generator.
    """
    skeleton, tensors = model_ref
    arrays = distinct_arrays(tensors)

    def place() -> Thawed:
        return Thawed(*as_tensors(list(arrays.values())))

    # Ray makes the skeleton anew for each call, so the tensors alone are kept. The model gets others over the same
    # memory: what it does to a tensor object itself (hooks, attributes, another shape) ends with the call.
    with residents.of_this_worker().fresh(key_of(arrays.values()), place) as kept:
        put_back(skeleton, tensors, {key: tensor.detach() for key, tensor in zip(arrays, kept, strict=True)})
        result = getattr(skeleton, method_name)(*args, **(kwargs or {}))
        check_has_ended(result, skeleton, method_name)
        return result


def rewrite_pipeline(pipeline: P, method_names: Sequence[str] = ("__call__",)) -> P:
    """Deprecated: use `TaskWrapper`. A copy of the pipeline whose models are stand-ins, run by Ray tasks.

    Args:
        pipeline: any picklable object holding models; it is not changed.
        method_names: the models' methods that run as tasks, besides `__call__`.
    """
    warn_deprecated("rewrite_pipeline", "TaskWrapper")
    return with_stand_ins(pipeline, method_names)
