"""A model that holds something of every kind, and does to itself whatever it is told."""

from __future__ import annotations

import array
import collections
import datetime
import functools
import io
import itertools
import logging
import random
import re
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn


class Text(str):
    """Immutable, but for its attributes."""


class Number(int):
    """The same."""


class Pair(tuple):
    """The same."""


class Slotted:
    __slots__ = ("other", "value")

    def __init__(self) -> None:
        self.value = 0


class Forgetful:
    """What pickle keeps of it leaves its state out."""

    def __init__(self) -> None:
        self.count = 0

    def __reduce__(self) -> Any:
        return Forgetful, ()


class OtherParameter(nn.Parameter):
    """Another class of parameters."""


class OtherLinear(nn.Linear):
    """Another class of modules."""


class Zone(datetime.tzinfo):
    """A time zone with a state."""

    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(0)


OUTSIDE: dict[str, Any] = {}
"""What calls left outside of their model."""


def meddle(key: str, change: Callable[[Any], object]) -> None:
    """Change what an earlier call left outside, if there was one in this process."""
    if key in OUTSIDE:
        change(OUTSIDE[key])


def remembering() -> Callable[[], int]:
    count = 0

    def remember(step: int = 1, seen: list[int] = [], *, more: list[int] = []) -> int:  # noqa: B006
        nonlocal count
        count += step
        return count

    return remember


class Hoarder(nn.Module):
    registry: ClassVar[weakref.WeakKeyDictionary[nn.Module, int]] = weakref.WeakKeyDictionary()
    """The process's own, but what it has of a model is not there for another."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.arange(70_000.0))  # in the object store
        self.free = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("b", torch.zeros(70_000))
        self.t = torch.arange(12.0).view(3, 4)
        self.c = torch.complex(torch.ones(2), torch.ones(2))
        self.child = nn.Linear(2, 2)
        self.children_by_name = nn.ModuleDict({"a": nn.Linear(2, 2)})
        self.parameters_by_name = nn.ParameterDict({"a": nn.Parameter(torch.zeros(2))})
        self.part = torch.zeros(70_000)[5:20]
        self.x: Any = "x"
        self.y: Any = "y"
        self.one = [0, 1, 2]
        self.two: list[int] = []
        self.tensors = [torch.zeros(2), torch.ones(2)]
        self.d: dict[str, Any] = {"a": 1, "b": 2, "c": 3}
        self.od = collections.OrderedDict(a=1, b=2)
        self.empty_od: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self.counter = collections.Counter("aab")
        self.dd: collections.defaultdict[str, Any] = collections.defaultdict(int)
        self.s = {"p", "q"}
        self.dq = collections.deque([1, 2, 3])
        self.nested = ({"deep": [1]},)
        self.text = Text("text")
        self.number = Number(5)
        self.pair = Pair((1, 2))
        self.slotted = Slotted()
        self.forgetful = Forgetful()
        self.space = types.SimpleNamespace(value=0)
        self.partial = functools.partial(max, 0, key=abs)
        self.function = remembering()
        self.array = np.zeros(4)
        self.large_array = np.zeros(70_000)
        self.ma = np.ma.masked_array(np.arange(4.0), [0, 0, 0, 1])
        self.matrix = np.matrix([[1.0, 2.0]])
        self.records = np.rec.array([(1, 2.0)], dtype=[("a", int), ("shape", float)])
        self.nested_records = np.zeros(3, dtype=[("a", [("b", int)])])
        self.alias = list[([1],)]  # type: ignore[misc]
        self.pattern = re.compile("a")
        self.objects = np.array([[1], "two"], dtype=object)
        self.bytes = bytearray(b"bytes")
        self.numbers = array.array("i", [1, 2])
        self.file = io.BytesIO(b"content")
        self.random = random.Random(0)
        self.rng = np.random.default_rng(0)
        self.count = itertools.count()
        self.iterator = iter([1, 2, 3])
        self.sparse = torch.eye(3).to_sparse()
        self.csr = torch.eye(3).to_sparse_csr()
        self.graph = torch.fx.symbolic_trace(nn.ReLU())
        self.when = datetime.datetime(2020, 1, 1, tzinfo=Zone())
        self.dynamic = types.ModuleType("dynamic")
        self.described = np.dtype(int, metadata={"seen": []})
        self.log: Any = None  # made in __setstate__
        self.generator: Any = None  # the same

    def __getstate__(self) -> dict[str, Any]:
        made_anew = ("scratch", "np_scratch", "inferred", "lock", "weak", "reference")
        return {name: value for name, value in self.__dict__.items() if name not in made_anew}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.scratch = torch.zeros(5)
        self.np_scratch = np.zeros(5)
        self.lock = threading.Lock()
        with torch.inference_mode():
            self.inferred = torch.zeros(2)
        if hasattr(self, "log"):
            self.log = logging.Logger("its own")
        if hasattr(self, "generator"):
            self.generator = torch.Generator().manual_seed(0)
        self.reference = weakref.ref(self.child)
        self.weak = weakref.WeakValueDictionary({"child": self.child})

    @functools.lru_cache  # noqa: B019
    def cached(self, key: int) -> list[int]:
        return [key]

    @functools.cached_property
    def property(self) -> list[int]:
        return []

    def forward(self, look: str, change: str) -> str:
        """What `look` finds, before `change` is done. Only what it needs of a hoarder's parts is left in the others."""
        names = {"m": self, "torch": torch, "nn": nn, "np": np, **globals()}
        with torch.no_grad():
            seen = repr(eval(look, names))
            exec(change, names)
        return seen


OPAQUE = [
    "objects",
    "bytes",
    "numbers",
    "file",
    "random",
    "rng",
    "count",
    "iterator",
    "sparse",
    "csr",
    "graph",
    "when",
    "dynamic",
    "described",
    "log",
    "generator",
]
"""Parts whose state the proof does not see: with one of them a model is loaded anew."""


def hoarder(*, without: list[str]) -> Hoarder:
    model = Hoarder()
    for name in without:
        delattr(model, name)
    return model.eval()
