"""Parametrized modules (`torch.nn.utils.parametrize`) as leaves: torch refuses to pickle them.

Registering a parametrization gives the module a class of its own, with a property for each parametrized tensor, and
that class cannot be imported by name. It is made again at thaw, from the class that the module had before.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def reduce_parametrized(module: nn.Module) -> tuple[Any, ...]:
    """A reduction (as of `object.__reduce_ex__`) of a module with parametrizations."""
    cls = parametrize.type_before_parametrizations(module)
    state = cls.__getstate__(module)  # type: ignore[call-arg]  # the module's own class has one that only raises
    return _new, (cls,), state, None, None, _set_state


def _new(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)


def _set_state(module: nn.Module, state: Any) -> None:
    if hasattr(module, "__setstate__"):
        module.__setstate__(state)
    else:
        module.__dict__.update(state)
    parametrize._inject_new_class(module)
    for name in module._modules["parametrizations"]._modules:  # type: ignore[union-attr]
        parametrize._inject_property(module, name)
