"""The pipeline that a name stands for now, loaded when that changes; to see that it has not changed asks nobody.

A process leaves a call with the keeper, which answers it when any name has changed. As long as the call is pending, all
that the process has loaded by names is what these stand for, but for the milliseconds that an answer takes to arrive.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

import ray
from ray.exceptions import RayActorError

from ray_zerocopy.errors import ModelLostError
from ray_zerocopy.transport import keeper

P = TypeVar("P")
S = TypeVar("S")


class _Loaded(NamedTuple, Generic[P]):
    pipeline: P
    key: Hashable
    """Of what it was loaded from."""
    epoch: int


class Current(Generic[P]):
    """A pipeline that several callers share. Any thread may call."""

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: _Loaded[P] | None = None

    def get(self, epoch: int, find: Callable[[], tuple[Hashable, S]], load: Callable[[S], P]) -> P:
        """What is loaded, if it is of this epoch; else what is found now, loaded unless it is the same.

        While one thread loads, the others get what was loaded before, or wait if there was nothing.

        Args:
            epoch: see `epoch`; determined before this call.
            find: what is to be loaded, and what tells it apart from all else. Where it raises that there is no such
                model, or that the keeper is lost, what is loaded stays.
            load: loads it.
        """
        loaded = self._loaded
        if loaded is not None and (loaded.epoch == epoch or not self._loading.acquire(blocking=False)):
            return loaded.pipeline
        if loaded is None:
            self._loading.acquire()
        try:
            self._loaded = self._renewed(epoch, find, load)
            return self._loaded.pipeline
        finally:
            self._loading.release()

    def _renewed(self, epoch: int, find: Callable[[], tuple[Hashable, S]], load: Callable[[S], P]) -> _Loaded[P]:
        loaded = self._loaded
        if loaded is not None and loaded.epoch == epoch:
            return loaded
        try:
            key, source = find()
        except (ValueError, ModelLostError, RayActorError):
            if loaded is None:
                raise
            return loaded._replace(epoch=epoch)
        if loaded is not None and loaded.key == key:
            return loaded._replace(epoch=epoch)
        return _Loaded(load(source), key, epoch)


def epoch() -> int:
    """A number that stays the same for as long as names stand for the same models; Ray is started if it is not running.

    What is found by a name after a call is valid until a call returns another number.
    """
    keeper.connect()
    return _changes(ray.get_runtime_context().get_worker_id()).epoch()


_epochs = itertools.count(1)
"""Those of all connections: what was found through one is looked up again through the next."""


class _Changes:
    """The call that this process has pending with the keeper. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = 0
        self._seen: keeper.State | None = None
        self._answer: Future[keeper.State] | None = None

    def epoch(self) -> int:
        if self._is_answered():
            with self._lock:
                if self._is_answered():
                    self._wait_for_next()
        return self._epoch

    def _is_answered(self) -> bool:
        return self._answer is None or self._answer.done()

    def _wait_for_next(self) -> None:
        # It may have been answered long ago, and more have changed since: an answer never means that nothing has.
        if self._answer is not None:
            self._seen = None if self._answer.exception() is not None else self._answer.result()
        self._answer = keeper.wait_for_change(self._seen)
        self._epoch = next(_epochs)


@functools.lru_cache(maxsize=1)
def _changes(worker: str) -> _Changes:
    """One for each connection to Ray."""
    return _Changes()
