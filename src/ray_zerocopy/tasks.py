"""Models run by Ray tasks: the stand-in for a model, and the task that a worker runs for it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import ray
import torch
from torch.export import ExportedProgram

from ray_zerocopy import residents, store
from ray_zerocopy.freshness import ThawedProgram
from ray_zerocopy.image import Thawed, freeze_each
from ray_zerocopy.messages import Packed, packed, unpacked
from ray_zerocopy.models import paths_of, take_apart

P = TypeVar("P")


class _Mode(NamedTuple):
    """What of the caller's torch state decides a model's results, and so goes with the call."""

    grad: bool
    inference: bool
    autocast: torch.dtype | None
    default: torch.dtype
    """The default dtype. It is the whole process's; the model's code may change it, which ends with the call."""

    @classmethod
    def current(cls) -> _Mode:
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return cls(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast, torch.get_default_dtype())

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.default)
        try:
            if self.autocast is None and not (self.inference or torch.is_inference_mode_enabled()):
                with torch.set_grad_enabled(self.grad):  # the least to do, in the path of each call
                    yield
            else:
                with self._all_entered():
                    yield
        finally:
            torch.set_default_dtype(before)

    @contextlib.contextmanager
    def _all_entered(self) -> Iterator[None]:
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad):
            if self.autocast is None:
                yield
            else:
                with torch.autocast("cpu", dtype=self.autocast):
                    yield


class _Call(NamedTuple):
    key: Hashable
    """What a worker keeps the model under."""
    model: store.ModelInImage | None
    """Where to load it from. None: ask only a worker that keeps it. (A reference costs each call some time.)"""
    method: str
    mode: tuple[Any, ...]
    """A `_Mode`."""
    values: tuple[Any, ...]
    """Of all arguments; the last ones are those of the keyword arguments."""
    keywords: tuple[str, ...]
    references: tuple[int, ...]
    """Which values are None here, and come by reference."""


class _Answer(NamedTuple):
    value: Any
    was_kept: bool
    """Whether the worker had the model already."""
    ran: bool = True
    """False: the worker does not keep the model, and was not told where it is."""


@ray.remote
def _run(arrived: Any, *referred: Any) -> Packed:
    """Run one method of a model.

    Args:
        arrived: a `_Call`, as a packed tuple: nothing in that has to be imported.
        referred: what was given as references; being arguments of the task itself they have been resolved by Ray.

    Returns:
        An `_Answer`, likewise.
    """
    call = _Call(*unpacked(arrived))
    values = list(call.values)
    for place, value in zip(call.references, referred, strict=True):
        values[place] = value
    split = len(values) - len(call.keywords)
    keywords = dict(zip(call.keywords, values[split:], strict=True))
    kept = residents.of_this_worker()
    was_kept = call.key in kept
    load = None if call.model is None else functools.partial(_load, call.model)
    try:
        with kept.fresh(call.key, load) as model, _Mode(*call.mode).entered():
            return packed((getattr(model, call.method)(*values[:split], **keywords), was_kept))
    except residents.NotKeptError:
        return packed((None, False, False))


def _load(source: store.ModelInImage) -> Thawed:
    thawed = store.load(source)
    if isinstance(thawed.root, ExportedProgram):
        return ThawedProgram(thawed.root.module(), thawed.view)
    return thawed


class StandIn:
    """Stands where a model stood: its remote methods run as Ray tasks, each on a model as fresh as just loaded.

    What else is asked of it, a copy of the model in this process answers, which is loaded when it is first needed and
    shares the node's weights. Picklable; it works inside tasks and actors. Usable from several threads.
    """

    def __init__(self, model: store.ModelInImage, methods: Collection[str], description: str) -> None:
        self.model = model
        self._methods = frozenset(methods)
        self._description = description
        self._is_kept = False
        """Whether the last worker that was asked had the model already, so that the next is likely to."""
        self._local: Any = None
        self._loading = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, in a Ray task; references among the arguments are resolved first, as in any task."""
        return self._invoke("__call__", *args, **kwargs)

    def eval(self) -> StandIn:
        """The model is in eval mode already, so it stays in its place."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_methods" not in self.__dict__:
            raise AttributeError(name)
        if name in self._methods:
            return functools.partial(self._invoke, name)
        with self._loading:
            if self._local is None:
                self._local = store.load(self.model).root
        return getattr(self._local, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self._methods, self._description)

    def __repr__(self) -> str:
        return f"<{self._description}, run by Ray tasks>"

    def _invoke(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        references = {place: value for place, value in enumerate(values) if isinstance(value, ray.ObjectRef)}
        for place in references:
            values[place] = None
        key = (self.model.image.binary(), self.model.skeleton)
        call = _Call(key, None, method, tuple(_Mode.current()), tuple(values), tuple(kwargs), tuple(references))
        answer = self._answer(call, references.values()) if self._is_kept else None
        if answer is None or not answer.ran:
            answer = self._answer(call._replace(model=self.model), references.values())
        self._is_kept = answer.was_kept
        return answer.value

    @staticmethod
    def _answer(call: _Call, references: Iterable[ray.ObjectRef[Any]]) -> _Answer:
        return _Answer(*unpacked(ray.get(_run.remote(packed(tuple(call)), *references))))


class ProgramStandIn(StandIn):
    """Stands where a `torch.export.ExportedProgram` stood."""

    def module(self, check_guards: bool = True) -> ProgramStandIn:
        """What is called of a program: here that is the stand-in itself."""
        return self


def with_stand_ins(pipeline: P, method_names: Sequence[str]) -> P:
    """A copy of a pipeline with a stand-in in each model's place, the models published as one object.

    Raises:
        TypeError: something in the pipeline cannot be pickled (the message gives the path to it), or `method_names` is
            not a sequence of names.
    """
    if isinstance(method_names, str) or not all(isinstance(name, str) for name in method_names):
        raise TypeError(f"Expected a sequence of method names, such as ('encode',), got {method_names!r}.")
    parts = take_apart(pipeline)
    roots = dict(zip(paths_of(parts.models, pipeline), parts.models, strict=True))
    image = store.publish(freeze_each(roots, external=store.is_ray_reference))
    stand_ins = []
    for number, (name, model) in enumerate(roots.items()):
        methods = {"__call__", *(m for m in method_names if callable(getattr(model, m, None)))}
        cls = ProgramStandIn if isinstance(model, ExportedProgram) else StandIn
        stand_ins.append(cls(store.ModelInImage(image, number), methods, f"{name}: {type(model).__name__}"))
    rewritten: P = parts.put_together(stand_ins)
    return rewritten
