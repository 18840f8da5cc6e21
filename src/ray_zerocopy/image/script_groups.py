"""Which TorchScript modules of an image must be written into one archive.

Modules in different archives have nothing in common after thaw but storages. So modules stay together that may hold
the same list, dictionary or object, or may hand instances of a class of TorchScript's to each other: the static types
of their attributes, arguments and results decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeAlias

import torch

_C: Any = torch._C  # The stubs of torch lack most of these names.
CppModule: TypeAlias = Any  # torch._C.ScriptModule

_ANYTHING = "anything"
"""Stands for types of which an object's own type cannot be told."""


def grouped(users: Mapping[CppModule, AbstractSet[int]]) -> list[list[CppModule]]:
    """The outermost modules, those together that the same roots of the image use or that may share objects.

    Args:
        users: the outermost modules, and the roots that use each of them.
    """
    groups: list[_Group] = []
    for module, roots in users.items():
        group = _Group({frozenset(roots), *_shareable(module)}, [module])
        apart = []
        for other in groups:
            if group.overlaps(other):
                group = _Group(other.keys | group.keys, other.modules + group.modules)
            else:
                apart.append(other)
        groups = [*apart, group]
    return [group.modules for group in groups]


class _Group(NamedTuple):
    """Modules that must stay together."""

    keys: set[object]
    """Whatever has one of them in common belongs to the group: sets of roots, submodules, and names of types."""
    modules: list[CppModule]

    def overlaps(self, other: _Group) -> bool:
        return (
            not self.keys.isdisjoint(other.keys)
            or (_ANYTHING in self.keys and other.may_share_objects())
            or (_ANYTHING in other.keys and self.may_share_objects())
        )

    def may_share_objects(self) -> bool:
        return any(isinstance(key, str) for key in self.keys)


def descendants(module: CppModule, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], CppModule]]:
    """The submodules of a module, of all depths, with their names on the way to them."""
    for name, child in _C.ModuleDict(module).items():
        yield (*path, name), child
        yield from descendants(child, (*path, name))


def attributes_of(module: CppModule) -> Iterator[tuple[str, Any]]:
    """The names and static types of a module's attributes, parameters and submodules aside."""
    for name, (kind, _) in _C.ConcreteModuleType.from_jit_type(module._type()).get_attributes().items():
        yield name, kind


def _shareable(root: CppModule) -> set[object]:
    """What a module may have in common with another: submodules, and objects of the types named."""
    inner = {module for _, module in descendants(root)}
    types: set[str] = set()
    for module in (root, *inner):
        for _, kind in attributes_of(module):
            types |= _within(kind, _HELD)
        for name in module._method_names():
            schema = module._get_method(name).schema
            for value in (*schema.arguments[1:], *schema.returns):
                types |= _within(value.type, _HANDED_OVER)
    return {*inner, *types}


_HELD = frozenset({"ListType", "DictType", "ClassType"})
"""Types of attributes whose values may be another module's, too."""

_HANDED_OVER = frozenset({"ClassType"})
"""Types of arguments and results whose values are not converted between modules."""

_OPEN = frozenset({"AnyType", "InterfaceType"})


def _within(kind: Any, wanted: AbstractSet[str]) -> set[str]:
    """The names of the wanted types that a type is made of."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [kind]
    while waiting:
        inner = waiting.pop()
        name = inner.annotation_str
        if name not in seen:
            seen.add(name)
            waiting += inner.containedTypes()
            if inner.kind() in wanted:
                found.add(name)
            elif inner.kind() in _OPEN:
                found.add(_ANYTHING)
    return found
