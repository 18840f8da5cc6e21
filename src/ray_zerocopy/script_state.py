"""What of TorchScript modules a call may have changed, and putting it back.

TorchScript code changes its module by `prim::SetAttr`, by writing to tensors, or by changing a list, dict or object
that an attribute holds. Which attributes are ever set is to be seen in the code, so only those need looking at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_C: Any = torch._C

_Setting = tuple[Any, str, Any]
"""A C++ module, an attribute's name, and the attribute's value when the module was fresh."""


class ScriptState:
    """The attributes of TorchScript modules (`module._c`) that their code may change, as they were. For one thread."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.tensors: list[torch.Tensor] = []
        """All tensors that are attributes; their bytes and forms are for the caller to watch."""
        self._settable: list[_Setting] = []
        self._containers: list[_Setting] = []
        self._is_seen_through = True
        set_somewhere = _names_set(modules)
        for module in modules:
            for name, kind in _attributes(module):
                value = module.getattr(name)
                if isinstance(value, torch.Tensor):
                    self.tensors.append(value)
                if kind in ("ListType", "DictType", "TupleType", "UnionType", "AnyType"):
                    self._containers.append((module, name, value))
                elif kind in ("ClassType", "InterfaceType"):
                    self._is_seen_through = False  # an object with attributes of its own
                elif name in set_somewhere:
                    self._settable.append((module, name, value))

    def restore(self) -> bool:
        """Put attributes back; False if something changed that cannot be put back, or might have."""
        for module, name, value in self._settable:
            if module.getattr(name) is not value:
                module.setattr(name, value)
        return self._is_seen_through and all(_same(m.getattr(name), value) for m, name, value in self._containers)


def _names_set(modules: Sequence[Any]) -> set[str]:
    methods = (module._get_method(name) for module in modules for name in module._method_names())
    return {node.s("name") for method in methods for node in method.graph.findAllNodes("prim::SetAttr")}


def _attributes(module: Any) -> list[tuple[str, str]]:
    """Names and kinds of types of a module's attributes and parameters; submodules are modules of their own."""
    attributes = _C.ConcreteModuleType.from_jit_type(module._type()).get_attributes()
    named = [(name, _inner(kind).kind()) for name, (kind, _) in attributes.items()]
    return named + [(name, "TensorType") for name, _ in _C.ParameterDict(module).items() if name not in attributes]


def _inner(kind: Any) -> Any:
    return kind.getElementType() if kind.kind() == "OptionalType" else kind


def _same(now: Any, before: Any) -> bool:
    if type(now) is not type(before):
        return False
    if isinstance(now, dict):
        return list(now) == list(before) and all(_same(now[key], before[key]) for key in now)
    if isinstance(now, (list, tuple)):
        return len(now) == len(before) and all(map(_same, now, before))
    return now is before if isinstance(now, torch.Tensor) else bool(now == before)
