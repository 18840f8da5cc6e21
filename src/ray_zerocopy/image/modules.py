"""Modules (`torch.nn.Module`) as pickle would reduce them, less the empty dictionaries that each has for its hooks.

Those are nine of ten objects in a pickled module. They are left out of a skeleton, and made anew at thaw.
"""

from __future__ import annotations

import copyreg
from collections import OrderedDict
from typing import Any

from torch import nn

_HOOKS: tuple[str, ...] = tuple(
    name for name, value in vars(nn.Module()).items() if type(value) is OrderedDict and not value
)
"""The attributes of a new module that are empty `OrderedDict`s."""


class ModuleReducer:
    """Reduces the modules of one skeleton.

    Args:
        leave_out: False: reduces none.
    """

    def __init__(self, leave_out: bool = True) -> None:
        self.left_out_shared = False
        """Whether a dictionary that was left out is held by something else, too: then it should not have been."""
        self._left_out: dict[int, OrderedDict[Any, Any]] = {}
        self._leave_out = leave_out
        self._is_default: dict[type[nn.Module], bool] = {}

    def reduce(self, module: nn.Module) -> tuple[Any, ...] | None:
        """A reduction (as of `object.__reduce_ex__`) of a module; None: pickle's own is the right one."""
        cls = type(module)
        is_default = self._is_default.get(cls)
        if is_default is None:
            is_default = self._is_default[cls] = self._leave_out and _is_default(cls)
        if not is_default:
            return None
        state = dict(module.__getstate__())
        for name in _HOOKS:
            hooks = state.get(name)
            if hooks is None:
                return None  # It is from an older torch; `nn.Module.__setstate__` mends that.
            if not hooks and type(hooks) is OrderedDict:
                self.meet(hooks)
                self._left_out[id(hooks)] = hooks
                del state[name]
        return copyreg.__newobj__, (cls,), state, None, None, _set_state  # type: ignore[attr-defined]

    def meet(self, dictionary: OrderedDict[Any, Any]) -> None:
        """To be told of each `OrderedDict` that something else holds."""
        if id(dictionary) in self._left_out:
            self.left_out_shared = True


def _is_default(cls: type[nn.Module]) -> bool:
    """Whether pickle's default and that of `nn.Module` hold for a class: a module's state is its attributes."""
    return (
        all(getattr(cls, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__"))
        and all(getattr(cls, name) is getattr(nn.Module, name) for name in ("__getstate__", "__setstate__"))
        and not hasattr(cls, "__getnewargs__")
        and not hasattr(cls, "__getnewargs_ex__")
        and cls not in copyreg.dispatch_table
        and not copyreg._slotnames(cls)  # type: ignore[attr-defined]
    )


def _set_state(module: nn.Module, state: dict[str, Any]) -> None:
    for name in _HOOKS:
        if name not in state:
            state[name] = OrderedDict()
    object.__setattr__(module, "__dict__", state)
