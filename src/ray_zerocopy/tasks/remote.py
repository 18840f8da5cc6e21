"""Models run by Ray tasks: who calls one, and the task that a worker runs for it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Hashable, Iterable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayTaskError
from torch.export import ExportedProgram

from ray_zerocopy.errors import ModelLostError
from ray_zerocopy.image import Thawed
from ray_zerocopy.tasks import residents
from ray_zerocopy.tasks.freshness import ThawedProgram
from ray_zerocopy.tasks.messages import Arguments, Packed, packed, unpacked
from ray_zerocopy.tasks.options import Task, TaskOptions, of_model_calls
from ray_zerocopy.tasks.torch_mode import TorchMode
from ray_zerocopy.tasks.waiting import result_of
from ray_zerocopy.transport import store


class _Call(NamedTuple):
    key: Hashable
    """What a worker keeps the model under."""
    model: store.ModelInImage | None
    """Where to load it from. None: ask only a worker that keeps it. (A reference costs each call some time.)"""
    method: str
    mode: tuple[Any, ...]
    """A `TorchMode`."""
    arguments: tuple[Any, ...]
    """`Arguments`."""


class _Answer(NamedTuple):
    value: Any
    was_kept: bool
    """Whether the worker had the model already."""
    ran: bool = True
    """False: the worker does not keep the model, and was not told where it is."""


def _run(arrived: Any, *referred: Any) -> Packed:
    """Run one method of a model.

    Args:
        arrived: a `_Call`, as a packed tuple: nothing in that has to be imported.
        referred: what was given as references; being arguments of the task itself they have been resolved by Ray.

    Returns:
        An `_Answer`, likewise.
    """
    call = _Call(*unpacked(arrived))
    args, kwargs = Arguments(*call.arguments).filled(referred)
    kept = residents.of_this_worker()
    was_kept = call.key in kept
    load = None if call.model is None else functools.partial(_load, call.model)
    try:
        with kept.fresh(call.key, load) as model:
            result = TorchMode(*call.mode).call(getattr(model, call.method), args, kwargs)
            check_has_ended(result, model, call.method)
            return packed((result, was_kept))
    except residents.NotKeptError:
        return packed((None, False, False))


_RUN = Task(_run)


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
    name = "forward" if method == "__call__" and hasattr(model, "forward") else method
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

    def __init__(self, source: store.ModelInImage, options: TaskOptions | None = None) -> None:
        self.source = source
        self.options = options
        """What the tasks have, whatever the options of model calls are; None: these."""
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
        arguments, references = Arguments.of(args, kwargs)
        call = _Call(self.source.key, None, method, tuple(TorchMode.current()), tuple(arguments))
        options = of_model_calls() if self.options is None else self.options
        options.check_gives_one_result("a model's call")
        if options.take_gpu:
            return self._answer(call._replace(model=self.source), references, options).value
        answer = self._answer(call, references, options) if self._is_kept else None
        if answer is None or not answer.ran:
            answer = self._answer(call._replace(model=self.source), references, options)
        self._is_kept = answer.was_kept
        return answer.value

    @staticmethod
    def _answer(call: _Call, references: Iterable[ray.ObjectRef[Any]], options: TaskOptions) -> _Answer:
        try:
            task = options.of(_RUN).remote(packed(tuple(call)), *references)
            return _Answer(*unpacked(result_of(task) if options.may_lack_cpu else ray.get(task)))
        except RayTaskError as error:
            if isinstance(error.cause, ModelLostError):  # which Ray does not unwrap, as it does other exceptions
                raise error.cause from error
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.options)
