"""What a worker keeps of the models that its tasks ran: bounded, fresh for each call, given up when idle."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

from ray_zerocopy import _engine
from ray_zerocopy.image import Thawed, tracing
from ray_zerocopy.tasks.freshness import FreshState
from ray_zerocopy.tasks.memory_limit import memory_limit
from ray_zerocopy.tasks.torch_mode import DEFAULT_DTYPE


class Limits(NamedTuple):
    """How much a worker keeps. Set them by environment variables, for all workers through Ray's `runtime_env`."""

    models: int = 8
    """At most so many models (`RAY_ZEROCOPY_RESIDENT_MODELS`); 0: every call loads anew."""
    nbytes: int = memory_limit() // 2
    """Of at most so many bytes of weights together (`RAY_ZEROCOPY_RESIDENT_BYTES`).

    The default is half of the memory that this process may use: the machine's, or its container's.
    """
    idle_seconds: float = 30.0
    """Each for so long after its last call (`RAY_ZEROCOPY_RESIDENT_IDLE_SECONDS`).

    Once a wrapper is gone its weights leave the object store within that time.
    """

    @classmethod
    def from_environment(cls) -> Limits:
        """The limits that the environment sets.

        Raises:
            ValueError: a variable is not a number, or is negative; the message names it.
        """
        return cls(
            int(_number("MODELS", cls._field_defaults["models"])),
            int(_number("BYTES", cls._field_defaults["nbytes"])),
            _number("IDLE_SECONDS", cls._field_defaults["idle_seconds"]),
        )


def _number(name: str, default: float) -> float:
    variable = f"RAY_ZEROCOPY_RESIDENT_{name}"
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"Expected a number of 0 or more in the environment variable {variable}, got {text!r}.")
    return number


Loader = Callable[[], Thawed]
"""Makes a model anew. It is kept with the model, so it must hold nothing of a call."""


class Version(NamedTuple):
    """The key of a pipeline that its owner changes: of its versions, a worker keeps the one that was used last."""

    pipeline: bytes
    image: bytes


class NotKeptError(LookupError):
    """A model that is not kept here was asked for, without a way to load it."""


class Resident:
    """A thawed model, and how to tell whether it is still as it was thawed.

    One thread at a time uses the model: between `freshen` and `release`. `prove` may be called from any, at any time.
    """

    def __init__(self, load: Loader) -> None:
        self.load = load
        self.last_used = 0.0
        traced = tracing.count()
        thawed = load()
        self.loads_beside_calls = tracing.count() == traced
        """Whether it may be loaded while another model is called: tracing would replace what that calls."""
        self.nbytes = sum(view.nbytes for view in thawed.views)
        self._views = thawed.views
        self._state = FreshState(thawed)
        self._lock = threading.Lock()
        self._in_use = False
        self._is_proved = True
        del thawed
        self._state.seal()

    @property
    def model(self) -> Any:
        """The model; for who uses it."""
        return self._state.model

    def freshen(self) -> bool:
        """Make the model as it was thawed, and begin to use it; False if that takes a new one.

        Weights that were written to are put back, page by page. Objects that changed are not mended. What cannot be
        seen, or what the kernel does not tell, is taken for a change.
        """
        with self._lock:
            self._in_use = True
            if not self._is_proved:
                with contextlib.suppress(Exception):
                    return self._is_freshened()
                return False
            return True

    def _is_freshened(self) -> bool:
        if not self._state.restore():
            return False
        for view in self._views:
            if _is_written(view):
                view.reset()
            _watch(view)
        return True

    def release(self) -> None:
        """End a use. The model may have changed."""
        with self._lock:
            self.last_used = time.monotonic()
            self._in_use = self._is_proved = False

    def prove(self) -> bool:
        """See whether the model is fresh, so that the next use need not; True as well while it is in use.

        No weights are put back: a result that lies in them may not have been sent yet. False: the next use will take a
        new model.
        """
        with self._lock:
            if self._in_use or self._is_proved:
                return True
            if not self._state.restore():
                return False
            self._is_proved = not any(map(_is_written, self._views))
            if self._is_proved:
                for view in self._views:
                    _watch(view)
            return True


def _is_written(view: _engine.View) -> bool:
    return bool(view.copied_bytes or view.diverged_bytes())


def _watch(view: _engine.View) -> None:
    """After the first use: from then on, to ask whether anything was written takes a tenth of the time."""
    view.wait_prefault()
    view.watch_writes()


class Residents:
    """The models of one worker, by last use. All members may be called from any thread.

    A thread of its own evicts them in time. When calls pause it also proves the last one fresh, or loads it anew if it
    is not. It lives as long as there are any.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[Hashable, Resident] = OrderedDict()  # the least recently used first
        self._changed = threading.Condition()
        self._unproved: tuple[Hashable, Resident] | None = None
        self._keeper: threading.Thread | None = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    @contextlib.contextmanager
    def fresh(self, key: Hashable, load: Loader | None) -> Iterator[Any]:
        """A model as if just loaded, for the body alone; it is kept afterwards if there is room.

        A result of the body that lies in the model's weights must be serialized before the next use of the same model.

        Args:
            key: what the model goes by here.
            load: makes it anew, where none is kept; None: there must be one.

        Raises:
            NotKeptError: there is none.
        """
        with self._changed:
            resident = self._kept.pop(key, None)
        if resident is None:
            if load is None:
                raise NotKeptError(key)
            self._drop_other_versions(key)
            resident = Resident(load)
        elif not resident.freshen():
            load = resident.load
            del resident  # so that the two need not have room together
            resident = Resident(load)
        try:
            yield resident.model
        finally:
            resident.release()
            self._keep(key, resident)

    def _drop_other_versions(self, key: Hashable) -> None:
        """Let go of what no call is likely to ask for any more, so that it does not stay in the object store."""
        if not isinstance(key, Version):
            return
        with self._changed:
            others = [kept for kept in self._kept if isinstance(kept, Version) and kept.pipeline == key.pipeline]
            for other in others:
                del self._kept[other]
            if self._unproved is not None and self._unproved[0] in others:
                self._unproved = None
        if others:
            gc.collect()  # they may hold themselves in cycles

    def _keep(self, key: Hashable, resident: Resident) -> None:
        with self._changed:
            self._kept[key] = resident
            self._kept.move_to_end(key)
            while len(self._kept) > self._limits.models or self._nbytes() > self._limits.nbytes:
                self._kept.popitem(last=False)
            if self._unproved is None:
                self._changed.notify_all()
            self._unproved = (key, resident) if self._kept.get(key) is resident else None
            if self._kept and self._keeper is None:
                self._keeper = threading.Thread(target=self._look_after, name="ray_zerocopy-residents", daemon=True)
                self._keeper.start()

    def _nbytes(self) -> int:
        return sum(resident.nbytes for resident in self._kept.values())

    def _look_after(self) -> None:
        while self._evict():
            self._prove_or_wait()

    def _prove_or_wait(self) -> None:
        """One step between evictions: keeps no model from being collected in the next."""
        with self._changed:
            if self._unproved is None:
                self._changed.wait(self._seconds_to_next_eviction())
            unproved = self._unproved
            wait = 0.0 if unproved is None else unproved[1].last_used + _PAUSE_SECONDS - time.monotonic()
            if wait <= 0:
                self._unproved = None
        if wait > 0:
            time.sleep(wait)
        elif unproved is not None:
            with contextlib.suppress(Exception):  # the next call looks itself, and tells its caller
                self._prove(*unproved)

    def _prove(self, key: Hashable, resident: Resident) -> None:
        if resident.prove() or not resident.loads_beside_calls:
            return
        with DEFAULT_DTYPE:  # a call in another thread may have a default dtype of its own
            spare = Resident(resident.load)
        spare.last_used = resident.last_used
        with self._changed:
            if self._kept.get(key) is resident:
                self._kept[key] = spare  # at its place in the order

    def _evict(self) -> bool:
        """Let go of what was idle for too long; False, and this thread is no longer the keeper, if nothing is left."""
        with self._changed:
            deadline = time.monotonic() - self._limits.idle_seconds
            evicted = [key for key, resident in self._kept.items() if resident.last_used <= deadline]
            for key in evicted:
                del self._kept[key]
            is_any_left = bool(self._kept)
            if not is_any_left:
                self._unproved = None
                self._keeper = None
        if evicted:
            gc.collect()  # models may hold themselves in cycles, and an idle worker never collects
        return is_any_left

    def _seconds_to_next_eviction(self) -> float:
        oldest = next(iter(self._kept.values()), None)
        return 0 if oldest is None else max(0.0, oldest.last_used + self._limits.idle_seconds - time.monotonic())


_PAUSE_SECONDS = 0.005
"""How long after a call its model is proved: a worker without pauses would do that at the cost of its next call."""


@functools.cache
def of_this_worker() -> Residents:
    """What this process keeps, within the limits that its environment set when this was first called."""
    return Residents(Limits.from_environment())
