"""One process: everything about one system and one model, with a Ray of its own.

python -m benchmarks.measure SYSTEM CASE EXTENT RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.models import CASES, Case
from benchmarks.plan import Plan, plan_of
from benchmarks.systems import System, system_named
from benchmarks.tasks import measure_tasks
from benchmarks.workers import Workers, measure_workers
from benchmarks.wrapping import measure_wrapping


class Record:
    """What is known so far, in a file: a process that is stopped leaves what it found until then."""

    def __init__(self, file: Path, **known: Any) -> None:
        self._file = file
        self._found: dict[str, Any] = {**known, "samples": {}, "failed": {}, "part_seconds": {}}

    def attempt(self, part: str, measured: Callable[[], dict[str, Any]]) -> None:
        """Add what a part finds; not tried once another has failed, for later ones need what earlier ones did."""
        if self._found["failed"]:
            return
        start = time.monotonic()
        try:
            found = measured()
            self._found["samples"] |= found.pop("samples", {})
            self._found |= found
        except Exception as error:
            self._found["failed"][part] = _reason(error)
        self._found["part_seconds"][part] = round(time.monotonic() - start, 1)
        self._file.write_text(json.dumps(self._found))


def measure(system_name: str, case_name: str, extent: str, file: Path) -> None:
    """All figures of one system and case: `samples` by name, other results, and why a part failed."""
    case, system = CASES[case_name], system_named(system_name)
    plan = plan_of(extent, case_name)
    torch.set_num_threads(1)
    record = Record(file, system=system_name, case=case_name, weights=case.nbytes)
    store = plan.store_bytes(case.nbytes)
    ray.init("local", num_cpus=2, object_store_memory=store, include_dashboard=False, log_to_driver=False)
    made: dict[str, Any] = {}

    def make() -> dict[str, Any]:
        made.update(_make(system, case, system_name, plan))
        return {}

    try:
        with torch.no_grad():
            record.attempt("everything", make)
            record.attempt("wrapping", lambda: measure_wrapping(system, case, made["pipeline"], plan))
            record.attempt("workers", lambda: measure_workers(system, case, plan=plan, **made))
            if plan.cold_calls:
                record.attempt("tasks", lambda: measure_tasks(system, case, made["pipeline"], plan))
    finally:
        ray.shutdown()


def _make(system: System, case: Case, system_name: str, plan: Plan) -> dict[str, Any]:
    """The pipeline, and warm workers; neither, but an error, if the system cannot share such a pipeline at all."""
    system.share(case.build_tiny(), case)
    workers = Workers(system_name, case, plan)
    pipeline = case.build()
    workers.wait()
    return {"pipeline": pipeline, "workers": workers}


def _reason(error: Exception) -> str:
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    first_line = next(iter(str(cause).strip().splitlines()), "")
    return f"{type(cause).__name__}: {first_line[:200]}"


if __name__ == "__main__":
    system_name, case_name, extent, result = sys.argv[1:]
    measure(system_name, case_name, extent, Path(result))
