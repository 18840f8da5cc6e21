"""One run: a fresh process for each model and system, one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.figures import written
from benchmarks.files import Files, measure_files
from benchmarks.machine import machine
from benchmarks.models import CASES
from benchmarks.plan import FULL_PLANS, QUICK_CASES, QUICK_SYSTEMS
from benchmarks.published_environment import published_python
from benchmarks.results import Results
from benchmarks.samples import Spread
from benchmarks.systems import SYSTEMS

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "benchmarks"
_PROCESS_SECONDS = 400


def run(extent: str, minutes: float) -> Results:
    """Measure everything, or the quick subset, printing what comes out as it comes.

    Args:
        extent: "full" or "quick".
        minutes: what has not begun by then is not measured, and said to be so.
    """
    cases = QUICK_CASES if extent == "quick" else FULL_PLANS
    systems = QUICK_SYSTEMS if extent == "quick" else SYSTEMS
    pairs = [(case, system) for case in cases for system in systems]
    BUILD.mkdir(parents=True, exist_ok=True)
    python_for = {False: Path(sys.executable)}
    if any(SYSTEMS[system].published for system in systems):
        python_for[True] = published_python(BUILD / "published")
    os.sync()  # what was installed just now
    start = time.monotonic()
    results = []
    for number, (case, system) in enumerate(pairs, 1):
        elapsed = time.monotonic() - start
        done = f"[{number}/{len(pairs)}, {elapsed / 60:.1f} min]"
        print(f"{done} {CASES[case].title}, {SYSTEMS[system].title} ...", flush=True)
        if elapsed > minutes * 60:
            result = _nothing(case, system)
            result["failed"]["everything"] = f"not begun after {minutes:.0f} minutes"
        else:
            result = _measure_in_process(python_for[SYSTEMS[system].published], case, system, extent)
        for line in _summary(result):
            print(f"    {line}", flush=True)
        results.append(result)
    files = run_files(QUICK_CASES if extent == "quick" else ())._asdict()
    seconds = time.monotonic() - start
    return Results(
        {"date": str(date.today()), "seconds": seconds, "machine": machine(), "results": results, "files": files}
    )


def run_files(cases: Sequence[str] = ()) -> Files:
    """Measure what concerns files alone, or, if cases are named, only loads of these."""
    BUILD.mkdir(parents=True, exist_ok=True)
    print("Files ...", flush=True)
    return measure_files(BUILD, cases)


def _measure_in_process(python: Path, case: str, system: str, extent: str) -> dict[str, Any]:
    """Run `benchmarks.measure`, in a folder that is gone afterwards; its output is in build/benchmarks."""
    log = BUILD / f"{case}-{system}.log"
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, log.open("w") as output:
        result = Path(folder) / "result.json"
        environment = os.environ | SYSTEMS[system].environment
        environment |= {"BENCHMARKS_FOLDER": folder, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        # A session of its own: if it has to be killed, so is its Ray.
        process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.measure", system, case, extent, result],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
        stopped: str | None = None
        try:
            process.wait(_PROCESS_SECONDS)
        except subprocess.TimeoutExpired:
            stopped = f"stopped after {_PROCESS_SECONDS} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode and not stopped:
            stopped = f"the process ended with {process.returncode}"
        found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else _nothing(case, system)
        if stopped:
            found["failed"]["the rest"] = stopped
        return found


def _nothing(case: str, system: str) -> dict[str, Any]:
    return {"case": case, "system": system, "samples": {}, "failed": {}}


def _summary(result: dict[str, Any]) -> Iterator[str]:
    shown = ("wrap_seconds", "load_seconds", "first_to_steady", "private_bytes", "warm_overhead_seconds")
    found = [
        f"{figure.rpartition('_')[0].replace('_', ' ')} {written(figure, Spread.of(samples).median)}"
        for figure in shown
        if (samples := result["samples"].get(figure))
    ]
    if found:
        yield ", ".join(found)
    yield from (f"{part}: {reason}" for part, reason in result["failed"].items())
