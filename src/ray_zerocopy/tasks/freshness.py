"""Whether a model is still as it was thawed: two things can tell it apart from a fresh one.

One is the bytes of its weights: the View knows which pages this process made its own. The other is everything else,
of which a record is kept here: every object that the model is made of, and what each refers to. Only what is known to
be seen whole is recorded (a whitelist): a model with anything else in it is never taken for fresh.

What lies outside of the model is the process's, as in any Ray worker: attributes of classes, globals of modules,
members of enums. A holder outside that keeps a part of the model (a cache on a class, say, with the model as its key)
shows in the number of references to that part; one that keeps a view of a tensor or an array, in the number of users of
the memory.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import datetime
import decimal
import enum
import functools
import logging
import operator
import re
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.actor import ActorHandle

from ray_zerocopy import _engine
from ray_zerocopy._engine import Kind
from ray_zerocopy.image import Thawed
from ray_zerocopy.image.arrays import memory_of
from ray_zerocopy.image.importable import is_importable
from ray_zerocopy.onnx import OnnxModel
from ray_zerocopy.tasks.script_state import ScriptState

_log = logging.getLogger("ray_zerocopy")

_ATOMS: frozenset[type] = frozenset(
    {
        type(None),
        type(Ellipsis),
        type(NotImplemented),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        range,
        datetime.date,
        datetime.timedelta,
        decimal.Decimal,
        types.CodeType,
        type(getattr(typing, "NoDefault", None)),  # of Python 3.13
        types.GetSetDescriptorType,
        types.MemberDescriptorType,
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
        types.ClassMethodDescriptorType,
        torch.dtype,
        torch.device,
        torch.layout,
        torch.memory_format,
        torch.qscheme,
        torch.Size,
    }
)
"""Classes of objects that cannot change; not their subclasses, which may have attributes."""

_OUTSIDE = (
    type,
    enum.Enum,
    torch._ops.OpOverload,
    torch._ops.OpOverloadPacket,
    ray.ObjectRef,
    ActorHandle,
)
"""Classes of objects that are the process's, not the model's."""

_NAMED = (types.ModuleType, logging.Logger)
"""Classes of objects that are the process's if it has them under their names."""

_HANDLES = frozenset(
    getattr(torch._C, name)
    for name in ("BufferDict", "ConcreteModuleType", "ModuleDict", "ParameterDict", "ScriptMethod")
    if hasattr(torch._C, name)
)
"""Classes of torch's C++: Python's handles on compiled code, and on parts of a `ScriptModule`."""

_HOLDERS: frozenset[type] = frozenset(
    {
        object,
        dict,
        list,
        tuple,
        set,
        frozenset,
        slice,
        collections.OrderedDict,
        collections.defaultdict,
        collections.deque,
        functools.partial,
        operator.attrgetter,
        operator.itemgetter,
        operator.methodcaller,
        re.Pattern,
        types.GenericAlias,
        types.UnionType,
        types.MethodType,
        types.MethodWrapperType,
        types.CellType,
        types.MappingProxyType,
        types.SimpleNamespace,
        property,
        staticmethod,
        classmethod,
        typing.TypeVar,  # of C since Python 3.12, as the next four
        typing.ParamSpec,
        typing.ParamSpecArgs,
        typing.ParamSpecKwargs,
        typing.TypeVarTuple,
        weakref.ref,
    }
)
"""Classes of C whose objects are what they refer to."""

_BASES = _HOLDERS | {str, bytes, int, float, complex, datetime.date, decimal.Decimal, typing.Generic}
"""Classes that one written in Python may have as its bases: it adds attributes and slots to what they have."""

_TENSOR_FIELDS = (
    "untyped_storage",
    "data_ptr",
    "shape",
    "stride",
    "dtype",
    "is_neg",
    "requires_grad",
    "grad",
    "grad_fn",
    "_backward_hooks",
    "_post_accumulate_grad_hooks",
    "names",  # of older versions of torch
)


class ThawedProgram(Thawed):
    """The module of a `torch.export.ExportedProgram`.

    None of its code can reach the graph that it was generated from, so that nothing need look at the graph; the
    context variables that it holds are torch's own.
    """


class FreshState:
    """A record of a model's state, the bytes of its weights aside, taken when it was fresh.

    It holds the model. For one thread at a time.

    Args:
        thawed: the model, and the View that its weights lie in.
    """

    def __init__(self, thawed: Thawed) -> None:
        self._snapshot = _recorded(thawed)
        self._scripts = ScriptState([])
        self._tensors: list[torch.Tensor] = []
        self._versions: list[int] = []
        self._obstacle: str | None = None
        with self._obstacle_if_it_raises():
            self._record_scripts(thawed)
        self._obstacle = self._obstacle or self._snapshot.obstacle or self._scripts.obstacle
        if self._obstacle is not None:
            _log.debug("A model is loaded anew for each call: %s.", self._obstacle)

    def _record_scripts(self, thawed: Thawed) -> None:
        wrappers = [s for s in self._snapshot.scripts() if isinstance(s, torch.jit.ScriptModule)]
        if wrappers:
            for wrapper in wrappers:
                for name in wrapper._c._method_names():
                    getattr(wrapper, name)  # which it keeps among its attributes from the first time on
            self._snapshot = _recorded(thawed)
        self._scripts = ScriptState([s for s in self._snapshot.scripts() if type(s) is torch._C.ScriptModule])
        for tensor in self._scripts.tensors:
            self._snapshot.add(tensor)
        for constant in self._scripts.constants:
            self._snapshot.ignore_users(constant)

    @contextlib.contextmanager
    def _obstacle_if_it_raises(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever looking at a model's parts raises
            self._obstacle = f"to look at it raises {error!r}"

    @property
    def model(self) -> Any:
        """The model, as it is now."""
        return self._snapshot.root

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be said of this model: one sentence. None: it can be told whether it is fresh."""
        return self._obstacle

    def seal(self) -> None:
        """End the record. Nobody else may hold the model now: who holds a part of it later shows by that."""
        if self.obstacle is None:
            with self._obstacle_if_it_raises():
                # Those of inference mode have no versions.
                self._tensors = [tensor for tensor in self._snapshot.tensors() if not tensor.is_inference()]
                self._versions = [tensor._version for tensor in self._tensors]
                self._snapshot.seal()

    def restore(self) -> bool:
        """Whether all is as it was recorded; attributes of TorchScript modules and versions of tensors are made so.

        Nobody else may hold the model. Raises whatever looking at one of its objects raises.
        """
        if self.obstacle is not None:
            return False
        change = self._snapshot.change() if self._scripts.restore() else "the content of a TorchScript module"
        if change is not None:
            _log.debug("A model is not as it was loaded: %s is another.", change)
            return False
        versions = [tensor._version for tensor in self._tensors]
        if versions != self._versions:
            # torch's own context managers for "no change happened here" end in this.
            torch._C._autograd._unsafe_set_version_counter(tuple(self._tensors), tuple(self._versions))
        return True


def _recorded(thawed: Thawed) -> _engine.Snapshot:
    kind_of = _kind_in_program if isinstance(thawed, ThawedProgram) else _kind
    watched = [addresses for view in thawed.views for addresses in view.addresses()]
    return _engine.Snapshot(thawed.root, kind_of, _is_shared, _memory_of, *_counters(), _fields_of, watched)


@functools.cache
def _counters() -> tuple[Callable[[torch.Tensor], int], Callable[[int], int]]:
    """How many objects of C++ use a tensor, and a storage by its `_cdata`; they raise where torch does not tell."""

    def unknown(_: object) -> int:
        raise NotImplementedError("this version of torch does not tell who uses a tensor")

    return getattr(torch._C.TensorBase, "_use_count", unknown), getattr(torch._C, "_storage_Use_Count", unknown)


def _fields_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    return _descriptors(torch._C.TensorBase.is_complex(tensor))


@functools.cache
def _descriptors(is_complex: bool) -> tuple[Any, ...]:
    """Those of `_TENSOR_FIELDS` that this torch has; they are asked past any `__torch_function__`."""
    names = (*_TENSOR_FIELDS, "is_conj") if is_complex else _TENSOR_FIELDS
    return tuple(getattr(torch._C.TensorBase, name) for name in names if hasattr(torch._C.TensorBase, name))


def _kind(cls: type) -> _Kind:
    kind = _kinds.get(cls)
    if kind is None:
        kind = _kinds[cls] = _new_kind(cls)
    return kind


def _kind_in_program(cls: type) -> _Kind:
    return Kind.ATOM if cls in (torch.fx.Graph, contextvars.ContextVar) else _kind(cls)


_Kind: TypeAlias = Kind | Callable[[Any], object]

_kinds: weakref.WeakKeyDictionary[type, _Kind] = weakref.WeakKeyDictionary()
"""Of the classes that were met."""


def _new_kind(cls: type) -> _Kind:
    if cls in _ATOMS or issubclass(cls, _OUTSIDE) or _is_handle(cls):
        return Kind.ATOM
    if cls in _HOLDERS:
        return Kind.HOLDER
    if cls in (types.FunctionType, types.BuiltinFunctionType):
        return Kind.FUNCTION
    if issubclass(cls, _NAMED):
        return Kind.NAMED
    if cls is torch._C.ScriptModule:
        return Kind.SCRIPT
    if cls is torch.UntypedStorage:
        return Kind.STORAGE
    if issubclass(cls, OnnxModel):
        return _form_of_onnx_model
    if cls is type(_LOCK):
        return _form_of_lock
    if cls in (datetime.datetime, datetime.time, datetime.timezone):
        return _form_of_time
    if issubclass(cls, torch.Tensor):
        is_plain = cls.__torch_dispatch__ is torch.Tensor.__torch_dispatch__
        return Kind.TENSOR if is_plain and not _has_slots(cls) else Kind.OPAQUE
    if issubclass(cls, np.ndarray):
        return Kind.OPAQUE if _has_slots(cls) else _form_of_array
    if issubclass(cls, np.dtype):
        return _form_of_dtype
    if issubclass(cls, np.generic):
        return Kind.ATOM if cls.__module__ == "numpy" and not issubclass(cls, np.void) else Kind.OPAQUE
    if all(base in _BASES or _adds_only_attributes(base) for base in cls.__mro__):
        return Kind.SCRIPT if issubclass(cls, torch.jit.ScriptModule) else Kind.HOLDER
    return Kind.OPAQUE


def _adds_only_attributes(cls: type) -> bool:
    """Whether all that a class adds to its base is attributes and slots, as a `class` statement does.

    A class of C may add members that nothing shows, and be destroyed as Python's own are: its size tells it.
    """
    if not _engine.is_python_class(cls):
        return False
    pointers = sum(isinstance(member, types.MemberDescriptorType) for member in vars(cls).values())
    pointers += ("__dict__" in vars(cls)) + ("__weakref__" in vars(cls))
    base = cls.__base__
    return base is not None and cls.__basicsize__ <= base.__basicsize__ + pointers * tuple.__itemsize__


def _is_handle(cls: type) -> bool:
    return (
        cls in _HANDLES
        or (cls.__name__ == "AOTIModelPackageLoader" and cls.__module__.startswith("torch._C"))
        or cls.__module__.startswith("onnxruntime.")
    )


def _has_slots(cls: type) -> bool:
    return any(set(vars(base).get("__slots__", ())) - {"__dict__", "__weakref__"} for base in cls.__mro__)


def _form_of_array(array: npt.NDArray[Any]) -> object:
    # Past the attributes of subclasses: a record's field may have any name.
    shape, strides, dtype, flags = (getattr(np.ndarray, name).__get__(array) for name in _ARRAY_FIELDS)
    if dtype.hasobject:
        raise TypeError("it holds an array of Python objects, whose state cannot be seen")
    return array.__array_interface__["data"], shape, strides, dtype, _form_of_dtype(dtype), flags.writeable


_ARRAY_FIELDS = ("shape", "strides", "dtype", "flags")


def _form_of_dtype(dtype: np.dtype[Any]) -> object:
    """Names of fields can be changed, at every depth."""
    if dtype.metadata is not None:
        raise TypeError("it holds a numpy dtype with metadata, whose state cannot be seen")
    if dtype.subdtype is not None:
        return _form_of_dtype(dtype.base)
    return dtype.fields and [(name, _form_of_dtype(field[0]), field[1:]) for name, field in dtype.fields.items()]


def _form_of_time(time: datetime.datetime | datetime.time | datetime.timezone) -> object:
    zone = time if isinstance(time, datetime.timezone) else time.tzinfo
    if zone is not None and (type(zone) is not datetime.timezone or type(zone.tzname(None)) is not str):
        raise TypeError(f"it holds a time in {type(zone)}, whose state cannot be seen")
    return None


_LOCK = threading.Lock()


def _form_of_onnx_model(model: OnnxModel) -> object:
    if model.is_random:
        raise TypeError("it holds an ONNX model that draws random numbers")
    return None


def _form_of_lock(lock: threading.Lock) -> object:
    return lock.locked()


def _memory_of(obj: Any) -> tuple[int, int, object]:
    """Others outside may have views of the owner's memory; that shows in the number of its users."""
    if isinstance(obj, torch.Tensor):
        if obj.device.type == "meta":
            return 0, 0, None
        if obj.device.type != "cpu" or obj.layout is not torch.strided or obj.is_quantized or obj.is_nested:
            raise TypeError(f"it holds a tensor whose bytes cannot be seen: {obj.dtype}, {obj.layout}, {obj.device}")
        storage = obj.untyped_storage()
        return storage.data_ptr(), storage.nbytes(), storage
    if isinstance(obj, np.ndarray):
        base = obj.base if isinstance(obj.base, np.ndarray) else None
        while isinstance(obj.base, np.ndarray):
            obj = obj.base
        return *memory_of(obj), base
    return 0, 0, None


def _is_shared(obj: Any) -> bool:
    """Whether a function, a module or a logger is the one that the process has under its name."""
    if isinstance(obj, types.ModuleType):
        return sys.modules.get(obj.__name__) is obj
    if isinstance(obj, logging.Logger):
        return obj is logging.root or logging.Logger.manager.loggerDict.get(obj.name) is obj
    return is_importable(obj)
