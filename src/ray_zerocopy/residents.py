"""What a worker keeps of the models that its tasks ran: bounded, fresh for each call, given up when idle."""

from __future__ import annotations

import functools
import gc
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ray_zerocopy.freshness import FreshState
from ray_zerocopy.image import Thawed


class Limits(NamedTuple):
    """How much a worker keeps. Set them by environment variables, for all workers through Ray's `runtime_env`."""

    models: int = 8
    """At most so many models (`RAY_ZEROCOPY_RESIDENT_MODELS`); 0: every call loads anew."""
    nbytes: int = 0
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
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        return cls(
            int(_number("MODELS", cls._field_defaults["models"])),
            int(_number("BYTES", half)),
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
    """A thawed model, and how to tell whether it is still as it was thawed. For one thread at a time."""

    def __init__(self, thawed: Thawed) -> None:
        self.model = thawed.root
        self.nbytes = 0 if thawed.view is None else thawed.view.nbytes
        self.last_used = 0.0
        self._view = thawed.view
        self._state = FreshState(thawed.root)

    def freshen(self) -> bool:
        """Make the model as it was thawed; False if that takes a new one.

        Weights that were written to are put back, page by page. Objects that changed are not mended.
        """
        if not self._state.restore():
            return False
        if self._view is not None:
            if self._view.copied_bytes or self._view.diverged_bytes():
                self._view.reset()
            self._view.wait_prefault()
            self._view.watch_writes()  # from the second call on: then it pays
        return True


class Residents:
    """The models of one worker, by last use. All members may be called from any thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[Hashable, Resident] = OrderedDict()  # the least recently used first
        self._lock = threading.Lock()
        self._evictor: threading.Thread | None = None

    @contextmanager
    def fresh(self, key: Hashable, load: Callable[[], Thawed]) -> Iterator[Any]:
        """A model as if just loaded, for the body alone; it is kept afterwards if there is room.

        A result of the body that lies in the model's weights must be serialized before the next use of the same model.

        Args:
            key: what the model goes by here.
            load: makes it anew, where none is kept or the one kept has changed beyond mending.
        """
        with self._lock:
            resident = self._kept.pop(key, None)
        if resident is None or not resident.freshen():
            resident = Resident(load())
        try:
            yield resident.model
        finally:
            self._keep(key, resident)

    def _keep(self, key: Hashable, resident: Resident) -> None:
        resident.last_used = time.monotonic()
        with self._lock:
            self._kept[key] = resident
            self._kept.move_to_end(key)
            while len(self._kept) > self._limits.models or self._nbytes() > self._limits.nbytes:
                self._kept.popitem(last=False)
            if self._kept and self._evictor is None:
                # Lives as long as there is something to evict.
                self._evictor = threading.Thread(target=self._evict, name="ray_zerocopy-evictor", daemon=True)
                self._evictor.start()

    def _nbytes(self) -> int:
        return sum(resident.nbytes for resident in self._kept.values())

    def _evict(self) -> None:
        while True:
            with self._lock:
                deadline = time.monotonic() - self._limits.idle_seconds
                evicted = [key for key, resident in self._kept.items() if resident.last_used <= deadline]
                for key in evicted:
                    del self._kept[key]
                if not self._kept:
                    self._evictor = None
                    wait = 0.0
                else:
                    wait = next(iter(self._kept.values())).last_used - deadline
            if evicted:
                gc.collect()  # models may hold themselves in cycles, and an idle worker never collects
            if not wait:
                return
            time.sleep(wait)


@functools.cache
def of_this_worker() -> Residents:
    """What this process keeps, within the limits that its environment set when this was first called."""
    return Residents(Limits.from_environment())
