"""What a call in task mode costs besides the model itself and besides an empty Ray task."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
import torch

from benchmarks.models import Case
from benchmarks.plan import Plan
from benchmarks.samples import medians_of_blocks
from benchmarks.systems import Call, System

CALLERS = 2
_AT_LEAST = 5
_BLOCKS = 3
_PAUSE_SECONDS = 0.01


@ray.remote
def _empty() -> None:
    pass


def _empty_task() -> None:
    ray.get(_empty.remote())


def _seconds(call: Callable[[], Any]) -> float:
    """How long a call takes after a pause, in which workers end what they do behind a reply."""
    time.sleep(_PAUSE_SECONDS)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class _Call(NamedTuple):
    """One call in task mode: how long it took, and how long the models in it took by themselves."""

    seconds: float
    in_models: float


def measure_tasks(system: System, case: Case, pipeline: Any, plan: Plan) -> dict[str, Any]:
    """Calls with the shortest input, and empty tasks, in turn.

    The models say themselves how long they took: what else the machine does is in those seconds, too, and goes out of
    the difference.
    """
    tasks = case.models if system.task_per_model else 1
    _warm_up(system.for_tasks(case.timed(case.build_tiny()), case), case)
    empty_seconds = statistics.median(_seconds(_empty_task) for _ in range(20))
    timed = case.timed(pipeline)

    cold = []
    for _ in range(plan.cold_calls):
        call = system.for_tasks(timed, case)
        first = _timed_call(call, case)
        cold.append(first.seconds - first.in_models - tasks * empty_seconds)

    warm: list[_Call] = []
    empties: list[float] = []
    deadline = time.monotonic() + plan.task_seconds
    while len(warm) < plan.warm_calls and (len(warm) < _AT_LEAST or time.monotonic() < deadline):
        empties.append(tasks * _seconds(_empty_task))
        warm.append(_timed_call(call, case))
    overheads = [one.seconds - one.in_models - empty for one, empty in zip(warm, empties, strict=True)]
    throughput = [_throughput(call, case, plan.throughput_seconds / _BLOCKS) for _ in range(_BLOCKS)]
    samples = {
        "cold_overhead_seconds": [seconds / tasks for seconds in cold],
        "warm_overhead_seconds": medians_of_blocks([seconds / tasks for seconds in overheads]),
        "empty_task_seconds": medians_of_blocks([seconds / tasks for seconds in empties]),
        "task_call_seconds": medians_of_blocks([one.seconds for one in warm]),
        "requests_per_second": throughput,
    }
    return {"samples": samples}


def _timed_call(call: Call, case: Case) -> _Call:
    in_models = 0.0

    def run() -> None:
        nonlocal in_models
        in_models = call(*case.short_inputs)[1]

    return _Call(_seconds(run), in_models)


def _warm_up(call: Call, case: Case) -> None:
    """Let every worker process that Ray may pick import what a call needs."""
    for _ in range(2):
        _in_threads(lambda: _call(call, case))
        _empty_task()


def _call(call: Call, case: Case) -> None:
    with torch.no_grad():  # a setting of each thread
        call(*case.short_inputs)


def _throughput(call: Call, case: Case, seconds: float) -> float:
    """Requests per second of `CALLERS` threads, each of which waits for its answer before it asks again."""
    ends: list[float] = []
    start = time.perf_counter()

    def ask() -> None:
        while time.perf_counter() - start < seconds:
            _call(call, case)
            ends.append(time.perf_counter())

    _in_threads(ask)
    return len(ends) / (max(ends) - start)


def _in_threads(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
