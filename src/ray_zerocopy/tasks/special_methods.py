"""Special methods of objects that stand for others.

Python looks special methods up on the type of an object, so an object that stands for another supports `len`, `[]` or
`with` only if its own class does. Such an object is therefore given a subclass of its class, made for the special
methods of what it stands for: exactly these it supports.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

OWN = frozenset(
    {
        "__new__",
        "__init__",
        "__post_init__",
        "__del__",
        "__init_subclass__",
        "__subclasshook__",
        "__class_getitem__",
        "__set_name__",
        "__get__",
        "__set__",
        "__delete__",
        "__getattr__",
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "__dir__",
        "__dict__",
        "__slots__",
        "__weakref__",
        "__sizeof__",
        "__repr__",
        "__call__",
        "__reduce__",
        "__reduce_ex__",
        "__getstate__",
        "__setstate__",
        "__getnewargs__",
        "__getnewargs_ex__",
        "__copy__",
        "__deepcopy__",
    }
)
"""Special names that every object answers for itself: how it is made, copied, pickled, called and shown."""


class SpecialMethods(NamedTuple):
    """The special methods of a class. Small to pickle."""

    defined: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    """Those that the class sets to None, which tells Python that its objects lack them."""

    @classmethod
    def of(cls, other: type) -> SpecialMethods:
        """The special methods of a class, without those of `object` and those in `OWN`."""
        names = {name for base in other.__mro__ if base is not object for name in vars(base)}
        special = {name for name in names - OWN if name.startswith("__") and name.endswith("__")}
        found = {name: _defined(other, name) for name in special}
        return cls(
            frozenset(name for name, value in found.items() if _is_method(value)),
            frozenset(name for name, value in found.items() if value is None),
        )


def _defined(cls: type, name: str) -> Any:
    return next(vars(base)[name] for base in cls.__mro__ if name in vars(base))


def _is_method(value: Any) -> bool:
    return callable(value) and hasattr(value, "__get__") and not isinstance(value, (type, staticmethod, classmethod))


def supporting(base: type[T], methods: SpecialMethods, answer: Callable[..., Any]) -> type[T]:
    """A subclass of `base` with these special methods, the same one each time; `base` itself if there are none.

    Args:
        base: the class. The subclass has its name.
        methods: what the subclass supports.
        answer: called as `answer(self, name, *args, **kwargs)` for the special method `name`.
    """
    untyped: Any = base
    made: type[T] = _subclass(untyped, methods, answer) if any(methods) else base
    return made


@functools.cache
def _subclass(base: type, methods: SpecialMethods, answer: Callable[..., Any]) -> type:
    namespace: dict[str, Any] = {name: _method(name, answer) for name in methods.defined}
    namespace |= dict.fromkeys(methods.refused)
    namespace |= {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    namespace |= {"__slots__": (), _PUBLIC: base}
    return types.new_class(base.__name__, (base,), exec_body=lambda body: body.update(namespace))


_PUBLIC = "_ray_zerocopy_public_class"


def public_class(obj: T) -> type[T]:
    """The class of an object, or the one that `supporting` made its class from."""
    cls: type[T] = getattr(type(obj), _PUBLIC, type(obj))
    return cls


def apply(special: str, target: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a special method as Python does: looked up on the type of `target`."""
    return getattr(type(target), special)(target, *args, **kwargs)


def _method(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return answer(self, name, *args, **kwargs)

    method.__name__ = name
    return method
