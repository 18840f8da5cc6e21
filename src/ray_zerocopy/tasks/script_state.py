"""What of TorchScript modules a call may have changed, and putting it back.

TorchScript code changes its module by `prim::SetAttr`, by writing to tensors, or by changing a list or dict that an
attribute holds. Python's code around it may set any attribute, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from ray_zerocopy import _engine
from ray_zerocopy.image.torchscript import constants_of

_C: Any = torch._C

_Getter: TypeAlias = Callable[[str], Any]

_VALUES = frozenset(
    {
        "BoolType",
        "ComplexType",
        "DeviceObjType",
        "FloatType",
        "IntType",
        "NoneType",
        "NumberType",
        "StringType",
        "TensorType",
    }
)
"""Kinds of types whose values cannot change, or (tensors) are watched one by one."""

_INSERTIONS = ("append", "extend", "insert", "_set_item", "setdefault", "update", "__setitem__", "add_", "mul_")
"""Operators (`aten::…`) that put something into a list or a dict that is there already."""


class ScriptState:
    """The attributes of TorchScript modules (`module._c`), as they were. For one thread."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.tensors: list[torch.Tensor] = []
        """All tensors that are attributes or constants; their bytes and forms are for the caller to watch."""
        self.constants: list[torch.Tensor] = []
        """Those that are constants: what torch makes of the code in its first calls holds them, too."""
        self.obstacle: str | None = None
        """Why the state cannot be seen: one sentence; None if it can."""
        # A module's getter, an attribute's name, its value when the module was fresh, and the module's setter.
        self._settable: list[tuple[_Getter, str, Any, Callable[[str, Any], None]]] = []
        self._containers: list[tuple[_Getter, str, Any]] = []
        set_somewhere = _names_set(modules)
        for module in modules:
            for name, kind in _attributes(module):
                is_set = name in set_somewhere
                if (
                    not _is_seen(kind)
                    or (_nesting(kind) and is_set)
                    or (_nesting(kind) > 1 and _insert_containers(modules))
                ):
                    self.obstacle = f"the attribute {name} of a TorchScript module, a {kind}, may hold what is not seen"
                    return
                value = module.getattr(name)
                self.tensors += _tensors_in(value)
                # By the module's own code, or by Python's.
                if _nesting(kind):
                    self._containers.append((module.getattr, name, value))
                else:
                    self._settable.append((module.getattr, name, value, module.setattr))
            for name in module._method_names():
                for constant in constants_of(module._get_method(name)):
                    self.constants += _tensors_in(constant)
        self.tensors += self.constants

    def restore(self) -> bool:
        """Put attributes back; False if a container's content changed, which is not put back."""
        for _, name, value, put in _engine.not_as_before(self._settable):
            put(name, value)
        return all(_same(get(name), value) for get, name, value in self._containers)


def _names_set(modules: Sequence[Any]) -> set[str]:
    methods = (module._get_method(name) for module in modules for name in module._method_names())
    return {node.s("name") for method in methods for node in method.graph.findAllNodes("prim::SetAttr")}


def _attributes(module: Any) -> list[tuple[str, Any]]:
    """Names and types of a module's attributes and parameters; submodules are modules of their own."""
    attributes = _C.ConcreteModuleType.from_jit_type(module._type()).get_attributes()
    named = [(name, kind) for name, (kind, _) in attributes.items()]
    return named + [(name, _C.TensorType.get()) for name in dict(_C.ParameterDict(module).items()).keys() - attributes]


def _is_seen(kind: Any) -> bool:
    """Whether the whole state of this type's values can be had in Python."""
    if kind.kind() in ("OptionalType", "TupleType", "ListType", "DictType"):
        return all(map(_is_seen, kind.containedTypes()))
    return kind.kind() in _VALUES


def _nesting(kind: Any) -> int:
    """How many lists and dicts there are around each other in values of this type.

    Lists are the same as others or not, which their contents do not show. So an attribute with one must not be set, for
    it could become the list that another attribute holds; and nothing must put lists into lists.
    """
    inner = max(map(_nesting, kind.containedTypes()), default=0)
    return inner + (kind.kind() in ("ListType", "DictType"))


def _insert_containers(modules: Sequence[Any]) -> bool:
    """Whether the code may put lists or dicts into others."""
    graphs = (module._get_method(name).inlined_graph for module in modules for name in module._method_names())
    return any(
        _nesting(node.inputsAt(0).type()) > 1
        for graph in graphs
        for operator in _INSERTIONS
        for node in graph.findAllNodes(f"aten::{operator}")
    )


def _tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, dict):
        return [tensor for item in (*value.keys(), *value.values()) for tensor in _tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def _same(now: Any, before: Any) -> bool:
    if type(now) is not type(before):
        return False
    if isinstance(now, dict):
        return len(now) == len(before) and all(map(_same, now.items(), before.items()))
    if isinstance(now, (list, tuple)):
        return len(now) == len(before) and all(map(_same, now, before))
    if isinstance(now, (float, complex)):
        return repr(now) == repr(before)  # 0.0 equals -0.0, and is not the same
    return now is before if isinstance(now, torch.Tensor) else bool(now == before)
