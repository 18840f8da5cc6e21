"""`python -m ray_zerocopy top`: what all processes of a cluster have loaded, and what that costs."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from typing import Any

from ray_zerocopy.inspection import printable
from ray_zerocopy.monitoring.cluster import ClusterMemory, cluster_memory
from ray_zerocopy.monitoring.processes import NodeMemory, ProcessModel

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
        cluster = cluster_memory()
        print(json.dumps(as_object(cluster), indent=2) if as_json else table(cluster))
        return
    try:
        while True:
            text = table(cluster_memory())
            now = datetime.now().astimezone()
            print(f"\x1b[H\x1b[J{text}\n\n{now:%H:%M:%S}, every {interval:g} s; Ctrl-C ends", flush=True)
            time.sleep(interval)
    except KeyboardInterrupt:
        print()


def as_object(cluster: ClusterMemory) -> dict[str, Any]:
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
            for node in cluster.nodes
        ],
        "silent": list(cluster.silent),
    }


def table(cluster: ClusterMemory) -> str:
    """The same for people, in MB."""
    rows: list[tuple[str, ...]] = [_HEAD]
    notes: dict[str, None] = {}
    for node in cluster.nodes:
        for model in node.models:
            rows.append((node.address, *_cells(model)))
            if model.private_copy_reason:
                notes[f"private copies in process {model.process}: {model.private_copy_reason}"] = None
    for address in cluster.silent:
        notes[f"{address} did not answer"] = None
    if len(rows) == 1:
        nothing = f"No process of {_counted(len(cluster.nodes), 'node')} has a model loaded."
        return "\n".join(map(printable, [nothing, *notes]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if n < _TEXTS else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    lines += [_sum_of(node) for node in cluster.nodes if node.models]
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
        f"({_mb(node.one_copy_bytes)} MB in one copy, the rest is private and page tables); "
        f"without sharing {_mb(node.cost_without_bytes)} MB"
    )


def _counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f}"
