"""The results as pictures."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.models import CASES
from benchmarks.report import Chart
from benchmarks.results import Results
from benchmarks.systems import OURS, SYSTEMS

COLORS = dict(zip(SYSTEMS, ("#0b6e4f", "#8d6a9f", "#d9a441", "#c1440e", "#5b7db1"), strict=True))


def draw(results: Results, folder: Path) -> list[Chart]:
    """Draw every chart that the run has figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = []
    for name, drawn in (
        ("memory_by_workers.png", _memory_by_workers(results)),
        ("load_by_size.png", _load_by_size(results)),
        ("task_overhead.png", _task_overhead(results)),
    ):
        if drawn is not None:
            figure, title = drawn
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
            plt.close(figure)
            charts.append(Chart(name, title))
    return charts


def _titles(system: str) -> str:
    return SYSTEMS[system].title.replace("`", "")


def _line(system: str) -> dict[str, Any]:
    """How a system's line looks. This one's lies over the others."""
    return {"color": COLORS[system], "label": _titles(system), "zorder": 3 if system == OURS else 2}


def _memory_by_workers(results: Results) -> tuple[Figure, str] | None:
    """The case with most workers."""
    most = {case: max(results.node_memory(case, OURS), default=0) for case in results.cases()}
    case = max(most, key=lambda case: most[case], default=None)
    if case is None or most[case] < 2:
        return None
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for system in SYSTEMS:
        memory = results.node_memory(case, system)
        if memory:
            gigabytes = [nbytes / 1e9 for nbytes in memory.values()]
            axes.plot(list(memory), gigabytes, "o-", **_line(system))
    allowed = {count: results.allowed_node_memory(case, OURS, count) for count in results.node_memory(case, OURS)}
    label = "weights + workers x (an empty one + 2 %)"
    axes.plot(list(allowed), [(nbytes or 0) / 1e9 for nbytes in allowed.values()], "k:", label=label)
    title = f"Memory of a node's workers with {CASES[case].title}"
    axes.set(title=title, xlabel="workers", ylabel="GB", xticks=list(allowed), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure, title


def _load_by_size(results: Results) -> tuple[Figure, str] | None:
    figure, axes = plt.subplots(figsize=(7, 4.2))
    eager = [case for case in results.cases() if not CASES[case].scripted]
    for system in SYSTEMS:
        points = sorted(
            ((results.get(case, system) or {})["weights"] / 1e6, spread)
            for case in eager
            if (spread := results.spread(case, system, "load_seconds"))
        )
        if points:
            sizes = [size for size, _ in points]
            medians = [spread.median * 1e3 for _, spread in points]
            below = [(spread.median - spread.low) * 1e3 for _, spread in points]
            above = [(spread.high - spread.median) * 1e3 for _, spread in points]
            axes.errorbar(sizes, medians, yerr=[below, above], fmt="o-", capsize=3, **_line(system))
    title = "A worker's load, by the size of the model"
    axes.set(title=title, xlabel="MB of weights", ylabel="ms", xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure, title


def _task_overhead(results: Results) -> tuple[Figure, str] | None:
    figure, axes = plt.subplots(figsize=(7, 4.2))
    cases = [c for c in results.cases() if results.spread(c, OURS, "warm_overhead_seconds")]
    width = 0.8 / len(SYSTEMS)
    for place, system in enumerate(SYSTEMS):
        for group, case in enumerate(cases):
            overhead = results.median(case, system, "warm_overhead_seconds")
            if overhead is not None:
                x = group + (place - (len(SYSTEMS) - 1) / 2) * width
                axes.bar(x, max(overhead * 1e3, 0.1), width, color=COLORS[system])
    title = "What a warm task call costs besides the model and an empty task"
    axes.set(title=title, ylabel="ms a task", yscale="log")
    axes.set_xticks(range(len(cases)), [textwrap.fill(CASES[case].title, 12) for case in cases], fontsize=8)
    axes.grid(alpha=0.3, axis="y", which="both")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[system]) for system in SYSTEMS]
    axes.legend(handles, [_titles(system) for system in SYSTEMS], fontsize=8)
    return (figure, title) if cases else None
