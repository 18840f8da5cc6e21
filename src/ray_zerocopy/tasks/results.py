"""Results of many tasks, as they are asked for: only so many tasks are started ahead."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import ExitStack
from typing import Any

import ray

from ray_zerocopy.transport import progress


class Results(Iterator[Any]):
    """The results of one task for each input. Tasks are started when results are asked for, not before.

    An exception of a task is raised in its result's place; the next result may be asked for after it. An iterator that
    is closed, or that nobody holds any more, cancels the tasks that are in flight. For one thread at a time.

    Args:
        start: starts the task for an input, and gives its reference.
        inputs: read ahead by as many as are in flight; they may be infinitely many.
        is_ordered: whether results come in the order of the inputs; False: as they get ready.
        max_in_flight: how many tasks may have been started whose results have not been asked for. None: twice as many
            as the cluster has CPUs, and at least 4.
        title: of the progress bar; None: nothing is shown.

    Raises:
        TypeError: `inputs` cannot be iterated over.
        ValueError: `max_in_flight` is not a number of 1 or more.
    """

    def __init__(
        self,
        start: Callable[[Any], ray.ObjectRef[Any]],
        inputs: Iterable[Any],
        *,
        is_ordered: bool,
        max_in_flight: int | None,
        title: str | None,
    ) -> None:
        if max_in_flight is None:
            max_in_flight = max(4, int(2 * ray.cluster_resources().get("CPU", 0)))
        elif isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int) or max_in_flight < 1:
            raise ValueError(f"Expected a number of 1 or more for max_in_flight, got {max_in_flight!r}.")
        self._tasks = _started(start, iter(inputs))
        self._is_ordered = is_ordered
        self._max_in_flight = max_in_flight
        self._in_flight: deque[ray.ObjectRef[Any] | Exception] = deque()
        """Tasks, and what was raised instead of starting one."""
        shown = ExitStack()
        total = len(inputs) if isinstance(inputs, Sized) else None
        self._advance = shown.enter_context(progress.counted(title, total))
        self._end = weakref.finalize(self, _end, self._in_flight, shown)

    def __next__(self) -> Any:
        while len(self._in_flight) < self._max_in_flight and (task := next(self._tasks, None)) is not None:
            self._in_flight.append(task)
        if not self._in_flight:
            self.close()
            raise StopIteration
        result = self._next_ready()
        self._in_flight.remove(result)
        self._advance()
        try:
            if isinstance(result, Exception):
                raise result
            return ray.get(result)
        except StopIteration as error:  # would end the loop, as if there were no more results
            raise RuntimeError("A task, or what starts it, raised StopIteration.") from error

    def _next_ready(self) -> ray.ObjectRef[Any] | Exception:
        first = self._in_flight[0]
        waiting = [task for task in self._in_flight if not isinstance(task, Exception)]
        if isinstance(first, Exception) if self._is_ordered else not waiting:
            return first
        [ready], _ = ray.wait(waiting[:1] if self._is_ordered else waiting, num_returns=1)
        return ready

    def close(self) -> None:
        """Cancel the tasks that are in flight; there are no more results."""
        self._tasks.close()
        self._end()


def _started(
    start: Callable[[Any], ray.ObjectRef[Any]], inputs: Iterator[Any]
) -> Generator[ray.ObjectRef[Any] | Exception, None, None]:
    """A task for each input, or what was raised instead of one."""
    while True:
        try:
            value = next(inputs)
        except StopIteration:
            return
        except Exception as error:
            yield error
            return
        try:
            task: ray.ObjectRef[Any] | Exception = start(value)
        except Exception as error:  # the input cannot be sent
            task = error
        del value
        yield task


def _end(in_flight: deque[ray.ObjectRef[Any] | Exception], shown: ExitStack) -> None:
    shown.close()
    while in_flight:
        task = in_flight.popleft()
        if not isinstance(task, Exception) and ray.is_initialized():
            ray.cancel(task)
