"""Many workers with one model: what each pays, what they take of the node's memory together, whether writes leak."""

from __future__ import annotations

import statistics
from typing import Any

import ray
from ray.actor import ActorHandle

from benchmarks import store
from benchmarks.memory import available_bytes, bytes_beside_store
from benchmarks.models import Case
from benchmarks.plan import Plan
from benchmarks.samples import medians_of_blocks
from benchmarks.systems import System
from benchmarks.worker import Worker

COUNTS = (1, 2, 4, 8, 16)
_SPARE = 2 << 30


class Workers:
    """Actors of one system and case. They start in the background; `wait` until they are warm."""

    def __init__(self, system: str, case: Case, plan: Plan) -> None:
        self.actors: list[ActorHandle[Any]] = [Worker.remote(system, case.name) for _ in range(plan.workers)]
        self.processes: list[int] = []

    def wait(self) -> None:
        self.processes = ray.get([actor.process.remote() for actor in self.actors])

    def end(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def measure_workers(system: System, case: Case, pipeline: Any, plan: Plan, workers: Workers) -> dict[str, Any]:
    """Load in one worker after the other; all exist from the start, so that they divide what every process shares."""
    empty = statistics.mean(bytes_beside_store(process) for process in workers.processes)
    shared = system.share(pipeline, case)
    loaded: list[dict[str, Any]] = []
    node_memory: list[dict[str, float]] = []
    stopped: str | None = None
    for count, actor in enumerate(workers.actors, 1):
        needed = 3 * case.nbytes + _SPARE
        if available_bytes() < needed:
            stopped = f"stopped at {count - 1} workers: less than {needed / 1e9:.0f} GB of memory were left"
            break
        loaded.append(ray.get(actor.load.remote(shared, plan.steady_calls)))
        if count in COUNTS:
            in_workers = sum(bytes_beside_store(process) for process in workers.processes[:count])
            node_memory.append({"workers": count, "bytes": store.settled_bytes() + in_workers})
    beside_private = [
        ratio
        for actor in workers.actors[: min(2, len(loaded))]
        for ratio in ray.get(actor.beside_private_copy.remote(2 * plan.steady_calls))
    ]
    # Pages of a file that only the first worker has mapped so far count as its own.
    others = loaded[1:] or loaded
    leaks = _write_leaks(workers.actors[0], workers.actors[1]) if len(loaded) > 1 else None
    workers.end()
    return {
        "samples": {
            "load_seconds": [one["load_seconds"] for one in loaded],
            "first_seconds": [one["first_seconds"] for one in loaded],
            "steady_seconds": [statistics.median(one["steady_seconds"]) for one in loaded],
            "first_to_steady": [one["first_seconds"] / statistics.median(one["steady_seconds"]) for one in loaded],
            "steady_to_private": medians_of_blocks(beside_private),
            "private_bytes": [one["private_bytes"] for one in others],
            "anonymous_bytes": [one["anonymous_bytes"] for one in others],
        },
        "empty_worker_bytes": empty,
        "node_memory": node_memory,
        "node_memory_stopped": stopped,
        "write_leaks": leaks,
    }


def _write_leaks(writer: ActorHandle[Any], reader: ActorHandle[Any]) -> str:
    before = ray.get(reader.weight.remote())
    try:
        ray.get(writer.write.remote())
    except ray.exceptions.RayActorError:
        return "the writer crashed"
    except ray.exceptions.RayTaskError as error:
        return f"cannot write: {type(error.cause).__name__}"
    return "no" if ray.get(reader.weight.remote()) == before else "yes"
