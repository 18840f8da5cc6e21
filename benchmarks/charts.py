"""The results as pictures."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.models import CASES
from benchmarks.report import Chart
from benchmarks.results import Results
from benchmarks.samples import Spread
from benchmarks.systems import OURS, SYSTEMS

COLORS = dict(zip(SYSTEMS, ("#0b6e4f", "#8d6a9f", "#d9a441", "#c1440e", "#5b7db1"), strict=True))


def draw(results: Results, folder: Path) -> list[Chart]:
    """Draw every chart that the run has figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = []
    for name, drawn, in_summary in (
        ("memory_by_workers.png", _memory_by_workers(results), True),
        ("load_by_model.png", _load_by_model(results), True),
        ("task_overhead.png", _task_overhead(results), False),
    ):
        if drawn is not None:
            figure, title = drawn
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
            plt.close(figure)
            charts.append(Chart(name, title, in_summary))
    return charts


def _titles(system: str) -> str:
    return SYSTEMS[system].title.replace("`", "")


def _memory_by_workers(results: Results) -> tuple[Figure, str] | None:
    """The case with most workers; a panel for each system, since what systems that share use is nearly the same."""
    most = {case: max(results.node_memory(case, OURS), default=0) for case in results.cases()}
    case = max(most, key=lambda case: most[case], default=None)
    if case is None or most[case] < 2:
        return None
    added = {system: found for system in SYSTEMS if (found := results.added_memory(case, system))}
    figure, panels = plt.subplots(1, len(added), figsize=(10, 2.8), sharey=True, squeeze=False)
    for axes, (system, by_workers) in zip(panels[0], added.items(), strict=True):
        places = range(len(by_workers))
        bars = axes.bar(places, list(by_workers.values()), 0.7, color=COLORS[system])
        axes.bar_label(bars, [f"{multiple:.1f}" for multiple in by_workers.values()], fontsize=8, padding=1)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(_titles(system), fontsize=9)
        axes.set_xticks(list(places), [str(count) for count in by_workers])
        axes.set_xlabel("workers", fontsize=8)
        axes.margins(y=0.12)
    panels[0][0].set_ylabel("x the weights")
    title = f"Memory that workers with {CASES[case].title} use beyond empty ones (dotted: the weights once)"
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure, title


def _load_by_model(results: Results) -> tuple[Figure, str] | None:
    """A panel for each model, and in it a line of its own for each system."""
    eager = [
        case for case in results.cases() if not CASES[case].scripted and results.spread(case, OURS, "load_seconds")
    ]
    if not eager:
        return None
    eager.sort(key=lambda case: (results.get(case, OURS) or {})["weights"])
    columns = min(3, len(eager))
    rows = -(-len(eager) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(10, 2.1 * rows + 0.5), sharex=True, sharey=True, squeeze=False
    )
    for axes, case in itertools.zip_longest(panels.flat, eager):
        if case is None:
            axes.set_visible(False)
            continue
        for place, system in enumerate(reversed(SYSTEMS)):
            spread = results.spread(case, system, "load_seconds")
            if spread:
                _range(axes, place, spread, COLORS[system])
        megabytes = (results.get(case, OURS) or {})["weights"] / 1e6
        axes.set_title(f"{CASES[case].title.partition(',')[0]}: {megabytes:.0f} MB", fontsize=9)
        axes.set(xscale="log", ylim=(-0.6, len(SYSTEMS) - 0.4))
        axes.set_yticks(range(len(SYSTEMS)), [_titles(system) for system in reversed(SYSTEMS)], fontsize=8)
        axes.grid(alpha=0.3, axis="x")
    for axes in panels[-1]:
        axes.set_xlabel("ms", fontsize=8)
    title = "A worker's load: median and range"
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure, title


def _range(axes: Axes, place: int, spread: Spread, color: str) -> None:
    low, median, high = (seconds * 1e3 for seconds in (spread.low, spread.median, spread.high))
    axes.plot([low, high], [place, place], color=color, linewidth=2)
    axes.plot(median, place, "o", color=color)
    text = f"{median:.1f}" if median < 10 else f"{median:.0f}"
    axes.annotate(text, (median, place), (0, 5), textcoords="offset points", ha="center", fontsize=7)


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
