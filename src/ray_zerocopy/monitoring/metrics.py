"""Loaded models in Ray's own metrics, which its dashboard and Prometheus show.

They are set when a model is loaded and when one is dropped, and by `memory_stats()`; nothing runs in between, so that
what has diverged is what the last `memory_stats()` saw. Ray forgets a gauge that is not set again within two of its
report intervals (20 seconds): where a continuous line is wanted, call `memory_stats()` now and then in the process.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

SHARED, PRIVATE, DIVERGED = (f"zerocopy_{kind}_bytes" for kind in ("shared", "private", "diverged"))
LOADS = "zerocopy_load_seconds"
COPIES = "zerocopy_private_copies"
"""Names, before which Ray puts `ray_`; the counter's has `_total` behind it there."""

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]

_PROCESS = os.getpid()


class Figures(NamedTuple):
    """What a load was last seen to have, in bytes."""

    model: str
    shared: int
    copied: int
    diverged: int


class _Metrics(NamedTuple):
    shared: Gauge
    private: Gauge
    diverged: Gauge
    loads: Histogram
    copies: Counter


_figures: dict[int, Figures] = {}


def note_load(number: int, model: str, nbytes: int, copied: int, reason: str | None) -> None:
    """A model was loaded.

    Args:
        number: of the load.
        model: what it is called.
        nbytes: of its weights.
        copied: how many of them are a private copy.
        reason: why, in a word (`View.private_copy_code`); None: none are.
    """
    _figures[number] = Figures(model, nbytes - copied, copied, 0)
    if (metrics := _metrics()) is not None:
        if copied:
            metrics.copies.inc(1, tags={"reason": reason or ""})
        _set_gauges(metrics, {model})


def note_drop(number: int) -> None:
    """The memory of a loaded model is gone."""
    dropped = _figures.pop(number, None)
    if dropped is not None and (metrics := _metrics()) is not None:
        _set_gauges(metrics, {dropped.model})


def note_seen(seen: dict[int, Figures]) -> None:
    """Loads were looked at, by number: all that live."""
    _figures.update({number: figures for number, figures in seen.items() if number in _figures})
    if (metrics := _metrics()) is not None:
        _set_gauges(metrics, {figures.model for figures in seen.values()})


def note_seconds(source: str, seconds: float) -> None:
    """How long a load took."""
    if (metrics := _metrics()) is not None:
        metrics.loads.observe(seconds, tags={"source": source})


def _set_gauges(metrics: _Metrics, models: set[str]) -> None:
    living = [figures for figures in _figures.copy().values() if figures.model in models]
    for model in models:
        mine = [figures for figures in living if figures.model == model]
        tags = {"model": model}
        diverged = sum(figures.diverged for figures in mine)
        metrics.shared.set(sum(figures.shared for figures in mine), tags=tags)
        metrics.private.set(sum(figures.copied for figures in mine) + diverged, tags=tags)
        metrics.diverged.set(diverged, tags=tags)


def _metrics() -> _Metrics | None:
    """None: this process is not connected to Ray, or was forked, which leaves Ray's locks as they were."""
    ray: Any = sys.modules.get("ray")
    is_initialized = getattr(ray, "is_initialized", None)  # None, too, while another thread imports it
    if is_initialized is None or os.getpid() != _PROCESS or not is_initialized():
        return None
    return _made()


@functools.cache
def _made() -> _Metrics:
    from ray.util.metrics import Counter, Gauge, Histogram

    def gauge(name: str, description: str) -> Gauge:
        return Gauge(name, description=description, tag_keys=("model",))

    return _Metrics(
        gauge(SHARED, "Bytes of loaded models that this process shares with others of its node"),
        gauge(PRIVATE, "Bytes of loaded models that are this process's own: private copies and what has diverged"),
        gauge(DIVERGED, "Bytes of loaded models that this process has written to, in whole pages"),
        Histogram(LOADS, description="Seconds that a load took", boundaries=_SECONDS, tag_keys=("source",)),
        Counter(COPIES, description="Loads with weights that could not be shared, by reason", tag_keys=("reason",)),
    )
