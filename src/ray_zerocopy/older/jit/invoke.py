"""TorchScript modules run by Ray tasks: the older interface, over stand-ins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ray

from ray_zerocopy.image.models import check_holds_script
from ray_zerocopy.older.deprecation import warn_deprecated
from ray_zerocopy.older.jit.rewrite import Arrays, put_back
from ray_zerocopy.older.numpy_bridge import key_of
from ray_zerocopy.tasks import residents
from ray_zerocopy.tasks.stand_ins import with_stand_ins

P = TypeVar("P")


@ray.remote
def call_model(
    model_ref: tuple[bytes, Arrays],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    method_name: str = "__call__",
) -> Any:
    """A Ray remote function: `call_model.remote(ray.put(extract_tensors_minimal(module)), args=(x,))`.

    Args:
        model_ref: a reference to what `extract_tensors` or `extract_tensors_minimal` returned; Ray hands over what it
            leads to. The arrays stay where they are in the object store; what the module writes to them, no other call
            sees.
        args: positional arguments of the method.
        kwargs: keyword arguments of the method.
        method_name: the module's method.
    """
    data, arrays = model_ref
    archive = hashlib.blake2b(data).digest()  # tells modules apart that have the same weights, or none
    key = (archive, tuple(arrays), key_of(arrays.values()))
    with residents.of_this_worker().fresh(key, lambda: put_back(data, arrays)) as module:
        return getattr(module, method_name)(*args, **(kwargs or {}))


def rewrite_pipeline(pipeline: P, method_names: Sequence[str] = ("__call__", "forward")) -> P:
    """Deprecated: use `JITTaskWrapper`. A copy of the pipeline whose models are stand-ins, run by Ray tasks.

    Args:
        pipeline: any picklable object holding TorchScript modules; it is not changed.
        method_names: the modules' methods that run as tasks, besides `__call__`.

    Raises:
        TypeError: the pipeline holds no TorchScript module.
    """
    warn_deprecated("jit.rewrite_pipeline", "JITTaskWrapper")
    check_holds_script(pipeline)
    return with_stand_ins(pipeline, method_names)
