"""Models run by Ray tasks: who calls one, and the task that a worker runs for it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import RayTaskError
from torch.export import ExportedProgram

from ray_zerocopy.errors import ModelLostError
from ray_zerocopy.image import Thawed
from ray_zerocopy.tasks import residents
from ray_zerocopy.tasks.freshness import ThawedProgram
from ray_zerocopy.tasks.messages import Packed, packed, unpacked
from ray_zerocopy.tasks.waiting import result_of
from ray_zerocopy.transport import store


class _Mode(NamedTuple):
    """What of the caller's torch state decides a model's results, and so goes with the call."""

    grad: bool
    inference: bool
    autocast: torch.dtype | None
    default: torch.dtype | None
    """The default dtype, a setting of the whole process. None: `torch.float32`, which is quicker to send."""

    @classmethod
    def current(cls) -> _Mode:
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        default = torch.get_default_dtype()
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            autocast,
            None if default is torch.float32 else default,
        )

    def call(self, method: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a method in this mode. What it changes of the mode ends with the call."""
        before = torch.get_default_dtype()
        default = self.default or torch.float32
        if default is not before:
            torch.set_default_dtype(default)
        try:
            # The least to do, in the path of each call.
            if self.autocast is None and not (self.inference or torch.is_inference_mode_enabled()):
                with torch.set_grad_enabled(self.grad):
                    return method(*args, **kwargs)
            with self._entered():
                return method(*args, **kwargs)
        finally:
            if torch.get_default_dtype() is not before:
                torch.set_default_dtype(before)

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
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
        with kept.fresh(call.key, load) as model:
            result = _Mode(*call.mode).call(getattr(model, call.method), values[:split], keywords)
            check_has_ended(result, model, call.method)
            return packed((result, was_kept))
    except residents.NotKeptError:
        return packed((None, False, False))


_run_beside_actor = _run.options(num_cpus=0)
"""The same for callers that are actors. They keep their CPUs while they wait, so that one more may never come free."""


def check_has_ended(result: object, model: object, method: str) -> None:
    """Raise a TypeError if a method gave work that is still to be done instead of a result.

    Args:
        result: what it gave.
        model: whose method it is, for the message.
        method: its name.
    """
    if not isinstance(result, _UNFINISHED):
        return
    if not isinstance(result, AsyncGeneratorType):
        result.close()  # so that nobody is warned that it was never awaited
    name = "forward" if method == "__call__" else method
    kind = type(result).__name__.replace("_", " ")
    raise TypeError(
        f"{type(model).__name__}.{name}() gave a {kind} object instead of a result, and that cannot leave the worker: "
        "methods that run as tasks are neither asynchronous nor generators. Make it an ordinary method (one that "
        "yielded values returns a list of them), and await or iterate in the pipeline's own code; or use an "
        "ActorWrapper, whose load() gives the model itself."
    )


_UNFINISHED = (CoroutineType, GeneratorType, AsyncGeneratorType)


def _load(source: store.ModelInImage) -> Thawed:
    thawed = store.load(source)
    if isinstance(thawed.root, ExportedProgram):
        return ThawedProgram(thawed.root.module(), thawed.view)
    return thawed


class RemoteModel:
    """A published model whose methods run as Ray tasks, each on a model as fresh as just loaded.

    Usable from several threads.
    """

    def __init__(self, source: store.ModelInImage) -> None:
        self.source = source
        self._is_kept = False
        """Whether the last worker that was asked had the model already, so that the next is likely to."""
        self._local: Any = None
        self._loading = threading.Lock()

    def local(self) -> Any:
        """A copy of the model in this process, loaded when it is first needed; it shares the node's weights."""
        with self._loading:
            if self._local is None:
                self._local = store.load(self.source).root
        return self._local

    def invoke(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Run a method in a task; references among the arguments are resolved first, as in any task."""
        values = [*args, *kwargs.values()]
        references = {place: value for place, value in enumerate(values) if isinstance(value, ray.ObjectRef)}
        for place in references:
            values[place] = None
        call = _Call(
            self.source.key, None, method, tuple(_Mode.current()), tuple(values), tuple(kwargs), tuple(references)
        )
        answer = self._answer(call, references.values()) if self._is_kept else None
        if answer is None or not answer.ran:
            answer = self._answer(call._replace(model=self.source), references.values())
        self._is_kept = answer.was_kept
        return answer.value

    @staticmethod
    def _answer(call: _Call, references: Iterable[ray.ObjectRef[Any]]) -> _Answer:
        arguments = packed(tuple(call)), *references
        try:
            if ray.get_runtime_context().get_actor_id() is not None:
                return _Answer(*unpacked(ray.get(_run_beside_actor.remote(*arguments))))
            return _Answer(*unpacked(result_of(_run.remote(*arguments))))
        except RayTaskError as error:
            if isinstance(error.cause, ModelLostError):  # which Ray does not unwrap, as it does other exceptions
                raise error.cause from error
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source,)
