"""What `torch.compile` made, as part of an image: its modules are compiled anew where they load, functions are refused.

A compiled function does not tell the arguments that it was compiled with, and `torch.nn.Module.compile` leaves a module
with such a function, which pickle would drop without a word. Nothing of `torch._dynamo` is imported here: that takes
seconds.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from torch import nn

from ray_zerocopy.image.importable import is_importable

_ORIGINAL = "_torchdynamo_orig_callable"
_DISABLED = "_torchdynamo_disable"
_OPTIMIZED_MODULE = "torch._dynamo.eval_frame", "OptimizedModule"

_ADVICE = (
    "it was compiled by torch.compile, and does not tell with which arguments; wrap the pipeline as it was before, and "
    "call torch.compile (or the module's compile()) on the loaded pipeline in the worker"
)


def is_optimized_module(cls: type) -> bool:
    """Whether objects of this class are what `torch.compile(module)` returns."""
    return (cls.__module__, cls.__name__) == _OPTIMIZED_MODULE


def reduce_optimized_module(module: nn.Module) -> tuple[Any, ...]:
    """A reduction (as of `object.__reduce_ex__`) of what `torch.compile(module)` returned: torch's own, and its hooks.

    The module is compiled anew, with its backend, at its first call.
    """
    reduced = module.__reduce_ex__(5)
    if isinstance(reduced, str) or len(reduced) != 2:
        return reduced  # type: ignore[return-value]
    hooks = {name: value for name, value in vars(module).items() if name.endswith("_hooks") and value}
    return (*reduced, hooks, None, None, _set_hooks) if hooks else reduced


def _set_hooks(module: nn.Module, hooks: dict[str, Any]) -> None:
    vars(module).update(hooks)


def is_compiled_function(obj: object) -> bool:
    """Whether this is a function that `torch.compile` returned, and that other processes cannot import by its name."""
    return (
        isinstance(obj, FunctionType)
        and _ORIGINAL in vars(obj)
        and not vars(obj).get(_DISABLED)
        and not is_importable(obj)
    )


def check_not_compiled(obj: object) -> None:
    """Raise a TypeError if `obj` is a compiled function, or a module that `torch.nn.Module.compile` was called on."""
    if is_compiled_function(obj) or (isinstance(obj, nn.Module) and vars(obj).get("_compiled_call_impl")):
        raise TypeError(_ADVICE)
