"""`python -m ray_zerocopy top`: what all processes of a cluster have loaded, and what that costs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_zerocopy.image.inspection import printable
from ray_zerocopy.monitoring import processes
from ray_zerocopy.monitoring.processes import NodeMemory, ProcessModel

_SECONDS = 30.0
"""How long a node has for its answer; a worker may have to start for it."""

_HEAD = ("NODE", "PID", "PROCESS", "MODEL", "FROM", "SHARED", "PRIVATE", "DIVERGED", "WITHOUT")
_TEXTS = 5
"""How many columns have text; the others are MB."""

_TITLE = 32
"""Characters of a process's title in the table."""


def top(interval: float, as_json: bool) -> None:
    """Prints what the connected cluster's processes have loaded.

    Once; but on a terminal again and again, until it is interrupted.

    Args:
        interval: seconds between two looks.
        as_json: whether to print JSON, once in any case.
    """
    if as_json or not sys.stdout.isatty():
        nodes = cluster_memory()
        print(json.dumps(as_object(nodes), indent=2) if as_json else table(nodes))
        return
    try:
        while True:
            text = table(cluster_memory())
            now = datetime.now().astimezone()
            print(f"\x1b[H\x1b[J{text}\n\n{now:%H:%M:%S}, every {interval:g} s; Ctrl-C ends", flush=True)
            time.sleep(interval)
    except KeyboardInterrupt:
        print()


def cluster_memory() -> list[NodeMemory]:
    """What the processes of each living node have loaded. Nodes that do not answer in time are left out.

    A task on each node asks the kernel. It needs no CPU of the cluster, so that a busy one can be looked at, and the
    processes themselves are not asked: they may be as busy.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    tasks = []
    for node in nodes:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        look: Any = _look.options(scheduling_strategy=pinned)
        tasks.append(look.remote(node["NodeID"], node["NodeManagerAddress"]))
    done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=_SECONDS)
    return list(_answers(task for task in tasks if task in done))


@ray.remote(num_cpus=0, max_retries=1)
def _look(node: str, address: str) -> NodeMemory:
    return processes.of_node(node, address)


def _answers(tasks: Iterator[ray.ObjectRef[Any]]) -> Iterator[NodeMemory]:
    for task in tasks:
        try:
            yield ray.get(task)
        except RayError:  # the node has gone meanwhile
            continue


def as_object(nodes: Sequence[NodeMemory]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "nodes": [
            {
                "node": node.node,
                "address": node.address,
                "one_copy_bytes": node.one_copy_bytes,
                "cost_bytes": node.cost_bytes,
                "cost_without_bytes": node.cost_without_bytes,
                "models": [{**model._asdict(), "private_bytes": model.private_bytes} for model in node.models],
            }
            for node in nodes
        ]
    }


def table(nodes: Sequence[NodeMemory]) -> str:
    """The same for people, in MB."""
    rows: list[tuple[str, ...]] = [_HEAD]
    notes: dict[str, None] = {}
    for node in nodes:
        for model in node.models:
            rows.append((node.address, *_cells(model)))
            if model.private_copy_reason:
                notes[f"private copies in process {model.process}: {model.private_copy_reason}"] = None
    if len(rows) == 1:
        return f"No process of {_counted(len(nodes), 'node')} has a model loaded."
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if n < _TEXTS else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    lines += [_sum_of(node) for node in nodes if node.models]
    return "\n".join(map(printable, [*lines, *notes]))


def _cells(model: ProcessModel) -> tuple[str, ...]:
    title = model.title if len(model.title) <= _TITLE else f"{model.title[: _TITLE - 1]}…"
    several = f" ({model.loads} times)" if model.loads > 1 else ""
    figures = (model.shared_bytes, model.private_bytes, model.diverged_bytes, model.nbytes)
    return (
        str(model.process),
        title,
        f"{model.model}{several}",
        model.source if model.origin is None else f"{model.source} {model.origin}",
        *(_mb(figure) for figure in figures),
    )


def _sum_of(node: NodeMemory) -> str:
    count = len({model.process for model in node.models})
    return (
        f"{node.address}: {_counted(count, 'process', 'processes')}, {_mb(node.cost_bytes)} MB "
        f"({_mb(node.one_copy_bytes)} MB shared by all, the rest is private and page tables); "
        f"without sharing {_mb(node.cost_without_bytes)} MB"
    )


def _counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f}"
