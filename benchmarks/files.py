"""Models in files: loads without Ray beside other formats, in Python and in C++; checkpoints into Ray's store."""

from __future__ import annotations

import json
import mmap
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import written_spread
from benchmarks.file_formats import FORMATS, OURS
from benchmarks.models import CASES
from benchmarks.samples import Spread

ROOT = Path(__file__).resolve().parent.parent
FILE_CASES = ("minilm", "bert", "bert-traced", "linears-2gb")
_PROCESSES = 5
"""For each format and model. The formats take turns."""
_CPP_CASE = "bert-traced"
_CPP_TURNS = 3
_CPP_AT_ONCE = 4
_CHECKPOINT_CASE = "linears-2gb"

FIGURES = {
    "load_seconds": "Load",
    "load_processor_seconds": "Load, processor time",
    "at_once_seconds": "Load, by each of four processes at once",
    "first_seconds": "First call",
    "steady_seconds": "Steady call",
    "first_to_steady": "First call ÷ steady call",
    "private_bytes": "Private memory",
}


class Files(NamedTuple):
    """What was found; each is None if it was not measured."""

    loads: list[dict[str, Any]]
    """Of each case and format the date, and the samples of each figure."""
    cpp: dict[str, dict[str, list[float]]] | None = None
    """Of each format the same, in C++ programs."""
    checkpoint: dict[str, list[float]] | None = None

    def updated(self, newer: Files) -> Files:
        """These results, with those of a newer run in the place of what that run measured again."""
        cases = {result["case"] for result in newer.loads}
        loads = [result for result in self.loads if result["case"] not in cases] + newer.loads
        loads.sort(key=lambda result: FILE_CASES.index(result["case"]))
        return Files(loads, newer.cpp or self.cpp, newer.checkpoint or self.checkpoint)


_CHECKPOINT_FIGURES = {
    "checkpoint_seconds": "From the file to the store",
    "cat_seconds": "`cat FILE > /dev/shm/…`",
    "cat_to_checkpoint": "The store's rate ÷ that of `cat`",
    "checkpoint_private_bytes": "The driver's extra anonymous memory",
}


def measure_files(folder: Path, cases: Sequence[str] = ()) -> Files:
    """Everything, or, if cases are named, only loads of these."""
    if cases:
        return Files(measure_loads(folder, cases))
    return Files(measure_loads(folder), measure_cpp(folder), measure_checkpoint(folder))


def measure_loads(folder: Path, cases: Sequence[str] = FILE_CASES) -> list[dict[str, Any]]:
    """Samples of each figure, for each model and format.

    Every file is in the page cache. One process, this one, has it mapped besides the one that loads it: Linux counts
    pages that a single process has mapped as private to it.
    """
    found = []
    for case_name in cases:
        case = CASES[case_name]
        formats = [name for name, entry in FORMATS.items() if entry.suits(case)]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            whole, tiny = Path(place, "whole"), Path(place, "tiny")
            builders = ((whole, case.build, case.build_anew or case.build), (tiny, case.build_tiny, case.build_tiny))
            samples: dict[str, dict[str, list[float]]] = {name: {} for name in formats}
            for folder_of_size, build, build_anew in builders:
                folder_of_size.mkdir()
                pipeline = build()
                for name in formats:
                    FORMATS[name].make().save(pipeline, folder_of_size / name, build_anew)
                del pipeline
            os.sync()
            with _Mapped(Path(place)):
                for _ in range(_PROCESSES):
                    for name in formats:
                        for figure, values in _loaded(name, case_name, whole / name).items():
                            samples[name].setdefault(figure, []).append(values)
        today = str(date.today())
        found += [{"case": case_name, "format": name, "date": today, "samples": samples[name]} for name in formats]
    return found


class _Mapped:
    """All files of a folder, mapped and read."""

    def __init__(self, folder: Path) -> None:
        self._maps = []
        for path in folder.rglob("*"):
            if path.is_dir():
                continue
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


def measure_cpp(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Loads by `examples/cpp/serve`, with this format and `torch.jit.load`'s: by one process, and by four at once.

    Four processes compete for the processors of a small machine: what a load takes shows with one, what it takes of
    memory with four.
    """
    build = folder / "cpp"
    for command in (
        ["cmake", "-G", "Ninja", "-S", ROOT / "examples" / "cpp", "-B", build],
        ["cmake", "--build", build],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    case = CASES[_CPP_CASE]
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        pipeline = case.build()
        names = [OURS, "torch_jit"]
        for name in names:
            FORMATS[name].make().save(pipeline, Path(place, name), case.build)
            found[name] = {"load_seconds": [], "at_once_seconds": [], "private_bytes": []}
        for name in names * _CPP_TURNS:
            samples = found[name]
            for _ in range(_CPP_AT_ONCE):
                samples["load_seconds"] += [seconds for seconds, _ in _served(build, Path(place, name), 1)]
            for seconds, private in _served(build, Path(place, name), _CPP_AT_ONCE):
                samples["at_once_seconds"].append(seconds)
                samples["private_bytes"].append(private)
    return found


def _served(build: Path, file: Path, processes: int) -> list[tuple[float, float]]:
    """What each of some processes, which load a file at once, took to do so: seconds, and bytes of its own."""
    shape = map(str, CASES[_CPP_CASE].inputs[0].shape)
    command = [build / "serve", str(processes), file, "long", *shape]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    found = re.findall(r"loaded in ([\d.e+]+) ms, (-?\d+) KiB private", output)
    return [(float(milliseconds) / 1e3, float(kibibytes) * 1024) for milliseconds, kibibytes in found]


def measure_checkpoint(folder: Path) -> dict[str, list[float]]:
    """From a safetensors checkpoint to Ray's store, beside `cat` of the file into shared memory."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(dir=folder) as place:
        file, result = Path(place, "model.safetensors"), Path(place, "result.json")
        save_file(CASES[_CHECKPOINT_CASE].build().state_dict(), file)
        os.sync()
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.checkpoint_loads", _CHECKPOINT_CASE, file, result]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=300)
        found: dict[str, list[float]] = json.loads(result.read_text())
        return found


def table(files: Files) -> Iterator[str]:
    """The results as Markdown: one table for each model, and one for each of the rest."""
    for case in dict.fromkeys(result["case"] for result in files.loads):
        loads = [result for result in files.loads if result["case"] == case]
        yield from _columns(f"From a file: {CASES[case].title}", {load["format"]: load["samples"] for load in loads})
        yield f"Measured {loads[0]['date']}."
        yield ""
    if files.cpp:
        yield from _columns(f"From a file, in C++: {CASES[_CPP_CASE].title}", files.cpp)
    if files.checkpoint:
        yield f"### From a safetensors checkpoint into the object store: {CASES[_CHECKPOINT_CASE].title}"
        yield ""
        yield "| | |"
        yield "| --- | --- |"
        for figure, title in _CHECKPOINT_FIGURES.items():
            yield f"| {title} | {written_spread(figure, Spread.of(files.checkpoint[figure]))} |"
        yield ""


def _columns(title: str, rows: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    yield f"| | {' | '.join(FORMATS[name].title for name in rows)} |"
    yield f"| --- |{' --- |' * len(rows)}"
    for figure, name_of_figure in FIGURES.items():
        if figure in rows[OURS]:
            cells = [_cell(figure, samples[figure], rows[OURS][figure], name) for name, samples in rows.items()]
            yield f"| {name_of_figure} | {' | '.join(cells)} |"
    yield ""


def _cell(figure: str, samples: list[float], ours: list[float], format_name: str) -> str:
    spread, own = Spread.of(samples), statistics.median(ours)
    text = written_spread(figure, spread)
    if format_name == OURS or figure == "first_to_steady" or own <= 0 or spread.median <= 0:
        return text
    ratio = spread.median / own
    return f"{text} · {ratio:.0f} x" if ratio >= 10 else f"{text} · {ratio:.2f} x"
