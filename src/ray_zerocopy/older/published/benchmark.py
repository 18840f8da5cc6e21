"""0.2.0's helpers for measuring memory, in MiB. Their import paths are those of `ray_zerocopy.benchmark`."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import ray  # noqa: F401  # where psutil is not installed, the one that Ray brings is found after this
import torch

# isort: split
import psutil  # type: ignore[import-untyped]

from ray_zerocopy.older.deprecation import warn_deprecated

_MIB = 1 << 20

_TOP = "memory_stats() in each worker, or `python -m ray_zerocopy top` for all of them"

Stats: TypeAlias = dict[str, Any]
"""The largest that was seen of Ray's workers on this machine: `peak_total_rss`, `peak_total_uss`, `peak_avg_rss`."""


def estimate_model_size_mb(model: torch.nn.Module) -> float:
    """Deprecated: use `nbytes` of a wrapper. The size of a model's parameters and buffers."""
    warn_deprecated("benchmark.estimate_model_size_mb", "ActorWrapper(model).nbytes")
    return sum(tensor.nbytes for tensors in (model.parameters(), model.buffers()) for tensor in tensors) / _MIB


def get_memory_mb(pid: int | None = None) -> float:
    """Deprecated: use `memory_stats`. The resident size of a process, in which shared pages count in full.

    Args:
        pid: of the process; None: this one.

    Returns:
        Its resident size; 0 if there is no such process, or it is another user's.
    """
    warn_deprecated("benchmark.get_memory_mb", "memory_stats()")
    return _resident(pid)


@contextlib.contextmanager
def _logged(name: str) -> Iterator[Callable[[], dict[str, float | None]]]:
    measured: dict[str, float | None] = {"rss": None, "uss": None}
    print(f"{name}: begins")
    yield lambda: measured
    gc.collect()
    measured["rss"], measured["uss"] = rss, uss = _resident(), _private(psutil.Process())
    print(f"{name}: RSS {rss:.1f} MiB, USS {uss:.1f} MiB")


def log_memory(name: str) -> contextlib.AbstractContextManager[Callable[[], dict[str, float | None]]]:
    """Deprecated: use `memory_stats`. A context manager that measures this process when its block has ended.

    Args:
        name: what to print the sizes under.

    Returns:
        The context manager; what `as` binds is a function that returns a dict of the sizes, `rss` and `uss`. They are
        None until the block has ended.
    """
    warn_deprecated("benchmark.log_memory", "memory_stats()")
    return _logged(name)


def monitor_memory(stop_event: threading.Event, stats: Stats, interval: float = 1.0, show_parent: bool = False) -> None:
    """Deprecated: use `python -m ray_zerocopy top`. Measure Ray's workers on this machine again and again.

    Args:
        stop_event: ends it, when it is set.
        stats: what is updated.
        interval: seconds between measurements.
        show_parent: whether to print the size of this process as well.
    """
    warn_deprecated("benchmark.monitor_memory", _TOP)
    _watch(stop_event, stats, interval, show_parent)


def monitor_memory_context(
    interval: float = 1.0, show_parent: bool = False
) -> contextlib.AbstractContextManager[Stats]:
    """Deprecated: use `python -m ray_zerocopy top`. A context manager that measures Ray's workers during its block.

    Args:
        interval: seconds between measurements, which a thread makes.
        show_parent: whether to print the size of this process as well.

    Returns:
        The context manager; what `as` binds are the `Stats`.
    """
    warn_deprecated("benchmark.monitor_memory_context", _TOP)
    return _watched(interval, show_parent)


@contextlib.contextmanager
def _watched(interval: float, show_parent: bool) -> Iterator[Stats]:
    stats: Stats = {"peak_total_rss": 0.0, "peak_total_uss": 0.0, "peak_avg_rss": 0.0}
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(stop, stats, interval, show_parent), daemon=True)
    thread.start()
    try:
        yield stats
    finally:
        stop.set()
        thread.join()


def _watch(stop_event: threading.Event, stats: Stats, interval: float, show_parent: bool) -> None:
    while not stop_event.is_set():
        sizes = list(_worker_sizes())
        rss, uss = (sum(kind) for kind in zip((0.0, 0.0), *sizes, strict=True))
        average = rss / len(sizes) if sizes else 0.0
        for key, value in {"peak_total_rss": rss, "peak_total_uss": uss, "peak_avg_rss": average}.items():
            stats[key] = max(stats.get(key, 0.0), value)
        if sizes:
            stats["uss_available"] = any(uss for _, uss in sizes)
        parent = f" | this process: RSS {_resident():.1f}" if show_parent else ""
        print(f"{time.strftime('%H:%M:%S')} {len(sizes)} workers: RSS {rss:.1f} MiB, USS {uss:.1f}{parent}")
        stop_event.wait(interval)


def _worker_sizes() -> Iterator[tuple[float, float]]:
    """The resident and the private size of each of Ray's workers on this machine."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended
            if "".join(process.cmdline()[:1]).startswith("ray::"):
                yield process.memory_info().rss / _MIB, _private(process)


def _resident(pid: int | None = None) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss / _MIB)
    except psutil.Error:
        return 0.0


def _private(process: psutil.Process) -> float:
    """A process's USS; 0 where the operating system does not tell."""
    try:
        return float(process.memory_full_info().uss / _MIB)
    except psutil.AccessDenied:
        return 0.0
