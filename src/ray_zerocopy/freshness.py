"""Whether a model is still as it was thawed.

Two things can tell it apart from a fresh one: the bytes of its weights (the View knows which pages this process made
its own), and the Python objects that it is made of. Of those a record is kept here: every object that can change, and
what each refers to, as the garbage collector sees it. Comparing that is a pass in C over some thousand pointers.
"""

from __future__ import annotations

import collections
import copyreg
import datetime
import decimal
import enum
import functools
import gc
import operator
import re
import types
import weakref
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle
from ray.actor import ActorHandle

from ray_zerocopy.compiled import CompiledProgram
from ray_zerocopy.script_state import ScriptState

_IMMUTABLE: tuple[type, ...] = (
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    types.CodeType,
    weakref.ref,  # what it points to is recorded where it is held
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    type(Ellipsis),
    type(NotImplemented),
    range,
    slice,
    enum.Enum,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    decimal.Decimal,
    re.Pattern,
    np.dtype,
    np.generic,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    torch.fx.Graph,  # a program's code, which running it does not change
    torch.fx.Node,
    ray.ObjectRef,
    ActorHandle,
)
"""What cannot change, or is not the model's own."""

_TRANSPARENT: frozenset[type] = frozenset(
    {
        dict,
        list,
        tuple,
        set,
        frozenset,
        collections.OrderedDict,
        collections.defaultdict,
        collections.deque,
        functools.partial,
        types.MethodType,
        types.FunctionType,
        types.CellType,
        types.MappingProxyType,
        types.SimpleNamespace,
        property,
        staticmethod,
        classmethod,
    }
)
"""Types whose whole state is what they refer to."""

_HANDLES = frozenset(
    {"AOTIModelPackageLoader", "BufferDict", "ConcreteModuleType", "ModuleDict", "ParameterDict", "ScriptMethod"}
)
"""Classes of `torch._C`: Python's handles on compiled code, and on parts of a `ScriptModule`."""

_LARGEST_OPAQUE = 1 << 20
"""Bytes of pickled opaque objects above which comparing them costs more than thawing anew."""


class FreshState:
    """A record of a model's state, the bytes of its weights aside, taken when it was fresh.

    It holds all parts of the model. For one thread.
    """

    def __init__(self, model: Any) -> None:
        self._holders: list[Any] = []
        self._tensors: list[torch.Tensor] = []
        self._arrays: list[np.ndarray[Any, Any]] = []
        self._opaque: list[Any] = []
        scripts: list[Any] = []
        self._walk(model, scripts)
        self._scripts = ScriptState(scripts)
        self._tensors += self._scripts.tensors
        self._referents = gc.get_referents(*self._holders)
        self._tensor_forms = self._forms()
        self._array_forms = [a.__array_interface__ for a in self._arrays]
        self._opaque_forms = self._pickled()

    def restore(self) -> bool:
        """Whether all is as it was recorded; the attributes of TorchScript modules are made so."""
        now = gc.get_referents(*self._holders)
        return (
            self._scripts.restore()
            and len(now) == len(self._referents)
            and all(map(operator.is_, now, self._referents))
            and self._forms() == self._tensor_forms
            and [a.__array_interface__ for a in self._arrays] == self._array_forms
            and self._opaque_forms is not None
            and (not self._opaque or self._pickled() == self._opaque_forms)
        )

    def _walk(self, model: Any, scripts: list[Any]) -> None:
        kinds: dict[type, _Kind] = {}
        seen: set[int] = set()
        waiting = [model]
        while waiting:
            obj = waiting.pop()
            cls = type(obj)
            kind = kinds.get(cls) or kinds.setdefault(cls, _kind(cls))
            if kind is _Kind.IMMUTABLE or id(obj) in seen:
                continue
            seen.add(id(obj))
            if kind is _Kind.HOLDER:
                if cls is not collections.OrderedDict:  # a module has ten, empty ones, for its hooks
                    getattr(obj, "__dict__", None)  # from now on it has one, however its attributes were stored before
                if isinstance(obj, torch.jit.ScriptModule):
                    for name in obj._c._method_names():
                        getattr(obj, name)  # which it keeps in its __dict__ from the first time on
                self._holders.append(obj)
                waiting += gc.get_referents(obj)
            elif kind is _Kind.TENSOR:
                self._tensors.append(obj)
                waiting.append(obj.__dict__)
            elif kind is _Kind.FUNCTION:
                self._holders.append(obj)
                waiting += [obj.__closure__, obj.__defaults__, obj.__kwdefaults__, obj.__dict__]  # not its globals
            elif kind is _Kind.SCRIPT:
                scripts.append(obj)
            elif kind is _Kind.ARRAY and not obj.dtype.hasobject:
                self._arrays.append(obj)
            else:
                self._opaque.append(obj)

    def _forms(self) -> list[tuple[Any, ...]]:
        return [(t.data_ptr(), t.shape, t.stride(), t.requires_grad, t.grad is None) for t in self._tensors]

    def _pickled(self) -> list[bytes] | None:
        try:
            pickled = [cloudpickle.dumps(obj) for obj in self._opaque]
        except Exception:  # whatever a reducer raises: then nothing can be said of this object
            return None
        return pickled if sum(map(len, pickled)) <= _LARGEST_OPAQUE else None


class _Kind(enum.Enum):
    IMMUTABLE = enum.auto()
    HOLDER = enum.auto()
    TENSOR = enum.auto()
    ARRAY = enum.auto()
    FUNCTION = enum.auto()
    SCRIPT = enum.auto()
    OPAQUE = enum.auto()


def _kind(cls: type) -> _Kind:
    if issubclass(cls, _IMMUTABLE) or (cls.__name__ in _HANDLES and cls.__module__.startswith("torch._C")):
        return _Kind.IMMUTABLE
    if cls is torch._C.ScriptModule:
        return _Kind.SCRIPT
    if issubclass(cls, torch.Tensor):
        return _Kind.TENSOR
    if issubclass(cls, np.ndarray):
        return _Kind.ARRAY
    if cls is types.FunctionType:
        return _Kind.FUNCTION
    if cls in _TRANSPARENT or issubclass(cls, (torch.fx.GraphModule, CompiledProgram)) or _is_its_referents(cls):
        return _Kind.HOLDER
    return _Kind.OPAQUE


def _is_its_referents(cls: type) -> bool:
    """Whether pickle's default holds for a class: an object's state is what it refers to.

    (`object.__reduce_ex__` refuses objects with state in C that it cannot see, and a thawed model was pickled once.)
    """
    is_default = all(getattr(cls, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__"))
    state = getattr(cls, "__getstate__", None)
    is_state_seen = state is getattr(object, "__getstate__", None) or isinstance(state, types.FunctionType)
    return is_default and is_state_seen and cls not in copyreg.dispatch_table
