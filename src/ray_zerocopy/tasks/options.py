"""Ray's options for the tasks of a wrapper: `num_cpus`, `resources`, `max_retries`, `runtime_env` and the others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

import ray
from ray.remote_function import RemoteFunction


class Task:
    """A function that Ray runs in workers.

    Without a GPU, workers are used again, and keep what they have loaded. A worker that has had one ends with the task,
    as Ray has it by default for functions that are declared with `num_gpus`: CUDA reads once in a process which devices
    it may use, and holds memory on them until the process ends, while Ray gives the next task another device.

    Args:
        function: what is run.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.without_gpu: RemoteFunction = ray.remote(function)
        self.with_gpu: RemoteFunction = ray.remote(num_gpus=1)(function)


class TaskOptions:
    """Options as `ray.remote` takes them. What is not given is Ray's default: one CPU, three retries.

    The default of `num_cpus` is 0 in an actor. Actors keep their CPUs while they wait, so that one more may never come
    free.

    Args:
        given: by Ray's names.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        self._made: dict[tuple[Task, bool], RemoteFunction] = {}

    def merged(self, given: Mapping[str, Any]) -> TaskOptions:
        """These, and others that go before them."""
        return TaskOptions({**self._given, **given})

    def check(self, task: Task) -> None:
        """Raise what Ray raises for options that it does not know, or not for this function."""
        task.without_gpu.options(**self._given)

    @property
    def number_of_results(self) -> Any:
        """`num_returns`: how many references a task gives, or "streaming"."""
        number = self._given.get("num_returns")
        return 1 if number is None else number

    def check_gives_one_result(self, use: str) -> None:
        """Raise a ValueError if a task is to give several results, for a use that takes one."""
        if self.number_of_results != 1:
            raise ValueError(f"num_returns={self.number_of_results!r} is for .remote(): {use} takes the whole result.")

    @property
    def may_lack_cpu(self) -> bool:
        """Whether a task may have to wait for the CPU that it needs by default."""
        return "num_cpus" not in self._given and not _is_in_actor()

    @property
    def take_gpu(self) -> bool:
        """Whether tasks are given a GPU, or a part of one. Their workers end with them."""
        return bool(self._given.get("num_gpus"))

    def of(self, task: Task) -> RemoteFunction:
        """The remote function of a task, with these options."""
        key = task, _is_in_actor()
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._applied(*key)
        return made

    def _applied(self, task: Task, is_in_actor: bool) -> RemoteFunction:
        function = task.with_gpu if self.take_gpu else task.without_gpu
        options = {"num_cpus": 0, **self._given} if is_in_actor else self._given
        return function.options(**options) if options else function

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._given,)

    def __repr__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._given.items())


def _is_in_actor() -> bool:
    return ray.get_runtime_context().get_actor_id() is not None


DEFAULTS = TaskOptions({})

# Threads do not inherit it.
_of_model_calls: ContextVar[TaskOptions] = ContextVar("ray_zerocopy_task_options", default=DEFAULTS)


def of_model_calls() -> TaskOptions:
    """The options that model calls have in this context."""
    return _of_model_calls.get()


def call_with(
    options: TaskOptions, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call a function; the model calls in it have these options, but for those in threads that it starts.

    The function may be asynchronous, or a generator, or both.
    """
    with _model_calls_with(options):
        result = function(*args, **kwargs)
    if isinstance(result, CoroutineType):
        return _awaited_with(options, result)
    if isinstance(result, GeneratorType):
        return _iterated_with(options, result)
    if isinstance(result, AsyncGeneratorType):
        return _asynchronously_iterated_with(options, result)
    return result


@contextlib.contextmanager
def _model_calls_with(options: TaskOptions) -> Iterator[None]:
    token = _of_model_calls.set(options)
    try:
        yield
    finally:
        _of_model_calls.reset(token)


async def _awaited_with(options: TaskOptions, coroutine: CoroutineType[Any, Any, Any]) -> Any:
    with _model_calls_with(options):
        return await coroutine


def _iterated_with(options: TaskOptions, values: GeneratorType[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """As `yield from values`, with the options in each step alone."""
    step: Callable[[Any], Any] = values.send
    given: Any = None
    with contextlib.closing(values):
        while True:
            try:
                with _model_calls_with(options):
                    value = step(given)
            except StopIteration as end:
                return end.value
            try:
                step, given = values.send, (yield value)
            except GeneratorExit:
                raise
            except BaseException as error:  # which the caller has thrown in
                step, given = values.throw, error


async def _asynchronously_iterated_with(
    options: TaskOptions, values: AsyncGeneratorType[Any, Any]
) -> AsyncGenerator[Any, Any]:
    step: Callable[[Any], Awaitable[Any]] = values.asend
    given: Any = None
    async with contextlib.aclosing(values):
        while True:
            try:
                with _model_calls_with(options):
                    value = await step(given)
            except StopAsyncIteration:
                return
            try:
                step, given = values.asend, (yield value)
            except GeneratorExit:
                raise
            except BaseException as error:  # which the caller has thrown in
                step, given = values.athrow, error
