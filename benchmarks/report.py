"""The results as Markdown, and their place in a document that people wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import FIGURES, written, written_spread
from benchmarks.files import table
from benchmarks.models import CASES
from benchmarks.results import Results
from benchmarks.systems import OURS, SYSTEMS
from benchmarks.targets import verdicts

SUMMARY_CASE = "bert"


class Chart(NamedTuple):
    """A picture beside the document."""

    file: str
    title: str
    in_summary: bool = False


def sections(results: Results, charts: list[Chart], images: str) -> dict[str, str]:
    """Everything that was measured, as the parts of a document by name: what matters most, and the rest.

    Args:
        results: one run.
        charts: what to show.
        images: the folder of the charts, as seen from the document.
    """
    summary = [*_summary(results), ""]
    details = ["## The machine", "", *_machine(results), ""]
    for chart in charts:
        (summary if chart.in_summary else details).extend([f"![{chart.title}]({images}/{chart.file})", ""])
    for case in results.cases():
        details += [f"## {CASES[case].title}", "", *_case(results, case), ""]
    if results.files.loads:
        details += ["## From files", "", *table(results.files)]
    details += ["## Appendix: all targets", "", *_targets(results)]
    return {"summary": "\n".join(summary), "details": "\n".join(details)}


def write_into(document: Path, parts: dict[str, str]) -> None:
    """Replace what lies between the two markers of each part, and nothing else; add parts that have no markers."""
    text = document.read_text() if document.exists() else "# Benchmarks\n"
    for name, part in parts.items():
        begin = f"<!-- What follows ({name}) is written by `make bench`, which replaces all of it. -->"
        end = f"<!-- Here ends what `make bench` writes ({name}). -->"
        before, after = text, ""
        if begin in text and end in text:
            before, _, rest = text.partition(begin)
            after = rest.partition(end)[2]
        pieces = (before, f"{begin}\n\n{part.strip()}\n\n{end}", after)
        text = "\n\n".join(piece.strip() for piece in pieces if piece.strip()) + "\n"
    document.write_text(text)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _summary(results: Results) -> Iterator[str]:
    """One table: the systems with the model that has been measured with most workers."""
    case = SUMMARY_CASE if SUMMARY_CASE in results.cases() else results.cases()[0]
    systems = [system for system in SYSTEMS if results.get(case, system)]
    workers = max(results.node_memory(case, OURS), default=0)
    columns: dict[str, Callable[[str], str]] = {
        "A worker's load": lambda system: _median(results, case, system, "load_seconds"),
        "Private memory of each worker": lambda system: _median(results, case, system, "private_bytes"),
        f"{workers} workers use beyond empty ones": lambda system: _added(results, case, system, workers),
        "A warm task call's overhead": lambda system: _median(results, case, system, "warm_overhead_seconds"),
        "A write in one worker is seen by others": lambda s: (results.get(case, s) or {}).get("write_leaks") or "-",
    }
    weights = next((r["weights"] for s in systems if "weights" in (r := results.get(case, s) or {})), 0)
    yield _row(f"{CASES[case].title}, {written('_bytes', weights)}", *columns)
    yield _row("---", *("---" for _ in columns))
    for system in systems:
        yield _row(SYSTEMS[system].title, *(cell(system) for cell in columns.values()))


def _median(results: Results, case: str, system: str, figure: str) -> str:
    median = results.median(case, system, figure)
    return "-" if median is None else written(figure, median)


def _added(results: Results, case: str, system: str, workers: int) -> str:
    added = results.added_memory(case, system).get(workers)
    return "-" if added is None else f"{added:.1f} x the weights"


def _machine(results: Results) -> Iterator[str]:
    machine = results.data["machine"]
    yield from (f"* {name}: {value}" for name, value in machine.items())
    minutes = results.data["seconds"] / 60
    yield f"* measured {results.data['date']}, in {minutes:.0f} minutes; loads from files on the days named there"


def _targets(results: Results) -> Iterator[str]:
    yield _row("Figure", "Target", "Measured", "Reached")
    yield _row("---", "---", "---", "---")
    for verdict in verdicts(results):
        yield _row(verdict.what, verdict.target, verdict.measured, "yes" if verdict.reached else "**no**")


def _case(results: Results, case: str) -> Iterator[str]:
    systems = [system for system in SYSTEMS if results.get(case, system)]
    weights = next((r["weights"] for s in systems if "weights" in (r := results.get(case, s) or {})), 0)
    yield f"{written('_bytes', weights)} of weights. Each cell has the median, the range, and the median as a multiple"
    yield "of ray_zerocopy's."
    yield ""
    yield _row("", *(SYSTEMS[system].title for system in systems))
    yield _row("---", *("---" for _ in systems))
    for figure, title in FIGURES.items():
        cells = [_cell(results, case, system, figure) for system in systems]
        if any(cell != "-" for cell in cells):
            yield _row(title, *cells)
    for count in (1, 2, 4, 8, 16):
        memory = {system: results.node_memory(case, system).get(count) for system in systems}
        if any(memory.values()):
            ours = memory.get(OURS)
            cells = [_beside(written("_bytes", m), m, ours, system) if m else "-" for system, m in memory.items()]
            yield _row(f"Node memory, workers: {count}", *cells)
    yield _row("An empty worker", *(_or_dash("_bytes", results, case, system) for system in systems))
    yield _row("A write leaks to others", *((results.get(case, s) or {}).get("write_leaks") or "-" for s in systems))
    yield from _reasons(results, case, systems)


def _cell(results: Results, case: str, system: str, figure: str) -> str:
    spread = results.spread(case, system, figure)
    if spread is None:
        return "-"
    ours = results.median(case, OURS, figure)
    ratio_says_something = figure not in ("wrap_to_put", "first_to_steady", "wrap_private_bytes")
    text = written_spread(figure, spread)
    return _beside(text, spread.median, ours, system) if ratio_says_something else text


def _beside(text: str, value: float, ours: float | None, system: str) -> str:
    if system == OURS or not ours or ours < 0 or value < 0:
        return text
    ratio = value / ours
    return f"{text} · {ratio:.0f} x" if ratio >= 10 else f"{text} · {ratio:.2f} x"


def _or_dash(unit: str, results: Results, case: str, system: str) -> str:
    value = (results.get(case, system) or {}).get("empty_worker_bytes")
    return written(unit, value) if value else "-"


def _reasons(results: Results, case: str, systems: list[str]) -> Iterator[str]:
    reasons = []
    for system in systems:
        result = results.get(case, system) or {}
        failed = dict(result.get("failed", {}))
        if result.get("node_memory_stopped"):
            failed["node memory"] = result["node_memory_stopped"]
        reasons += [f"* {SYSTEMS[system].title}, {part}: {reason}" for part, reason in failed.items()]
    if reasons:
        yield ""
        yield "Not measured:"
        yield ""
        yield from reasons
