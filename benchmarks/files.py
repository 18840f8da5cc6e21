"""Loading models from files, without Ray: this package's beside other formats, and checkpoints into Ray's store.

python -m benchmarks.files      the table alone, printed
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import written_spread
from benchmarks.file_formats import FORMATS, OURS
from benchmarks.models import CASES
from benchmarks.samples import Spread

ROOT = Path(__file__).resolve().parent.parent
FILE_CASES = ("minilm", "bert", "bert-traced", "linears-2gb")
_PROCESSES = 7
"""For each format and model. The formats take turns."""

FIGURES = {
    "load_seconds": "Load",
    "first_seconds": "First call",
    "steady_seconds": "Steady call",
    "first_to_steady": "First call ÷ steady call",
    "private_bytes": "Private memory",
}


def measure_files(folder: Path, cases: tuple[str, ...] = FILE_CASES) -> list[dict[str, Any]]:
    """Samples of each figure, for each model and format.

    Every file is in the page cache. One process, this one, has it mapped besides the one that loads it: Linux counts
    pages that a single process has mapped as private to it.
    """
    found = []
    for case_name in cases:
        case = CASES[case_name]
        formats = [name for name, entry in FORMATS.items() if (entry.scripted if case.scripted else entry.eager)]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            pipeline, tiny = case.build(), case.build_tiny()
            samples: dict[str, dict[str, list[float]]] = {name: {} for name in formats}
            for name in formats:
                made = FORMATS[name].make()
                made.save(pipeline, Path(place, name))
                made.save(tiny, Path(place, f"{name}-tiny"))
            del pipeline, tiny
            os.sync()
            with _Mapped(Path(place)):
                for _ in range(_PROCESSES):
                    for name in formats:
                        for figure, values in _loaded(name, case_name, Path(place, name)).items():
                            samples[name].setdefault(figure, []).append(values)
        found += [{"case": case_name, "format": name, "samples": samples[name]} for name in formats]
    return found


class _Mapped:
    """All files of a folder, mapped and read."""

    def __init__(self, folder: Path) -> None:
        self._maps = []
        for path in folder.iterdir():
            with path.open("rb") as file:
                self._maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_WILLNEED)
            sum(mapped[:: mmap.PAGESIZE])

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        for mapped in self._maps:
            mapped.close()


def _loaded(format_name: str, case: str, file: Path) -> dict[str, float]:
    result = file.with_name("result.json")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.file_loads", format_name, case, file, result]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=300)
    found = json.loads(result.read_text())
    steady = statistics.median(found.pop("steady_seconds"))
    return {**found, "steady_seconds": steady, "first_to_steady": found["first_seconds"] / steady}


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """The results as Markdown: one table for each model."""
    for case in dict.fromkeys(result["case"] for result in found):
        rows = [result for result in found if result["case"] == case]
        ours = next(result["samples"] for result in rows if result["format"] == OURS)
        yield f"### From a file: {CASES[case].title}"
        yield ""
        yield f"| | {' | '.join(FORMATS[result['format']].title for result in rows)} |"
        yield f"| --- |{' --- |' * len(rows)}"
        for figure, title in FIGURES.items():
            cells = [_cell(figure, result["samples"][figure], ours[figure], result["format"]) for result in rows]
            yield f"| {title} | {' | '.join(cells)} |"
        yield ""


def _cell(figure: str, samples: list[float], ours: list[float], format_name: str) -> str:
    spread, own = Spread.of(samples), statistics.median(ours)
    text = written_spread(figure, spread)
    if format_name == OURS or figure == "first_to_steady" or own <= 0 or spread.median <= 0:
        return text
    ratio = spread.median / own
    return f"{text} · {ratio:.0f} x" if ratio >= 10 else f"{text} · {ratio:.2f} x"


if __name__ == "__main__":
    build = ROOT / "build" / "benchmarks"
    build.mkdir(parents=True, exist_ok=True)
    print("\n".join(table(measure_files(build, tuple(sys.argv[1:]) or FILE_CASES))))
