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
from ray_zerocopy.freshness import FreshState
from ray_zerocopy.image import Thawed


class Limits(NamedTuple):
    """How much a worker keeps. Set them by environment variables, for all workers through Ray's `runtime_env`."""

    models: int = 8
    """At most so many models (`RAY_ZEROCOPY_RESIDENT_MODELS`); 0: every call loads anew."""
    nbytes: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    """Of at most so many bytes of weights together (`RAY_ZEROCOPY_RESIDENT_BYTES`); by default half of the memory."""
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


class Resident:
    """A thawed model, and how to tell whether it is still as it was thawed.

    One thread at a time uses the model: between `freshen` and `release`. `prove` may be called from any, at any time.
    """

    def __init__(self, thawed: Thawed) -> None:
        self.model = thawed.root
        self.nbytes = 0 if thawed.view is None else thawed.view.nbytes
        self.last_used = 0.0
        self._view = thawed.view
        self._state = FreshState(thawed.root)
        self._lock = threading.Lock()
        self._in_use = True
        self._is_proved = False

    def freshen(self) -> bool:
        """Make the model as it was thawed, and begin to use it; False if that takes a new one.

        Weights that were written to are put back, page by page. Objects that changed are not mended.
        """
        with self._lock:
            self._in_use = True
            if self._is_proved:
                return True
            if not self._state.restore():
                return False
            if self._view is not None:
                if self._is_written():
                    self._view.reset()
                self._watch(self._view)
            return True

    def release(self) -> None:
        """End a use. The model may have changed."""
        with self._lock:
            self.last_used = time.monotonic()
            self._in_use = self._is_proved = False

    def prove(self) -> None:
        """See whether the model is fresh, so that the next use need not; nothing while it is in use.

        No weights are put back: a result that lies in them may not have been sent yet.
        """
        with self._lock:
            if not self._in_use and not self._is_proved:
                self._is_proved = self._state.restore() and not self._is_written()
                if self._is_proved and self._view is not None:
                    self._watch(self._view)

    @staticmethod
    def _watch(view: _engine.View) -> None:
        """After the first use: from then on, to ask whether anything was written takes a tenth of the time."""
        view.wait_prefault()
        view.watch_writes()

    def _is_written(self) -> bool:
        return self._view is not None and bool(self._view.copied_bytes or self._view.diverged_bytes())


class Residents:
    """The models of one worker, by last use. All members may be called from any thread.

    A thread of its own evicts them in time, and proves the last one fresh when calls pause; it lives as long as there
    are any.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[Hashable, Resident] = OrderedDict()  # the least recently used first
        self._changed = threading.Condition()
        self._unproved: Resident | None = None
        self._keeper: threading.Thread | None = None

    @contextlib.contextmanager
    def fresh(self, key: Hashable, load: Callable[[], Thawed]) -> Iterator[Any]:
        """A model as if just loaded, for the body alone; it is kept afterwards if there is room.

        A result of the body that lies in the model's weights must be serialized before the next use of the same model.

        Args:
            key: what the model goes by here.
            load: makes it anew, where none is kept or the one kept has changed beyond mending.
        """
        with self._changed:
            resident = self._kept.pop(key, None)
        if resident is None or not resident.freshen():
            resident = Resident(load())
        try:
            yield resident.model
        finally:
            resident.release()
            self._keep(key, resident)

    def _keep(self, key: Hashable, resident: Resident) -> None:
        with self._changed:
            self._kept[key] = resident
            self._kept.move_to_end(key)
            while len(self._kept) > self._limits.models or self._nbytes() > self._limits.nbytes:
                self._kept.popitem(last=False)
            if self._unproved is None:
                self._changed.notify_all()
            self._unproved = self._kept.get(key)
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
            resident = self._unproved
            wait = 0.0 if resident is None else resident.last_used + _PAUSE_SECONDS - time.monotonic()
            if wait <= 0:
                self._unproved = None
        if wait > 0:
            time.sleep(wait)
        elif resident is not None:
            with contextlib.suppress(Exception):  # the next call looks itself, and tells its caller
                resident.prove()

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
