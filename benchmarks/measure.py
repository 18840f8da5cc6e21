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

from benchmarks.models import CASES, Case, weight_bytes
from benchmarks.plan import Plan, plan_of
from benchmarks.systems import System, system_named
from benchmarks.tasks import measure_tasks
from benchmarks.workers import Workers, measure_workers
from benchmarks.wrapping import measure_wrapping


def measure(system_name: str, case_name: str, extent: str) -> dict[str, Any]:
    """All figures of one system and case: `samples` by name, other results, and a reason for each part that failed."""
    case, system = CASES[case_name], system_named(system_name)
    plan = plan_of(extent, case_name)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"system": system_name, "case": case_name, "weights": case.nbytes}
    samples: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}

    def attempt(part: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Nothing once a part has failed: later ones need what earlier ones did."""
        if failed:
            return {}
        start = time.monotonic()
        try:
            return measured()
        except Exception as error:
            failed[part] = _reason(error)
            return {}
        finally:
            seconds[part] = round(time.monotonic() - start, 1)

    store = plan.store_bytes(case.nbytes)
    ray.init("local", num_cpus=2, object_store_memory=store, include_dashboard=False, log_to_driver=False)
    try:
        with torch.no_grad():
            made = attempt("everything", lambda: _make(system, case, system_name, plan))
            if made:
                result["weights"] = weight_bytes(made["pipeline"])
            samples |= attempt("wrapping", lambda: measure_wrapping(system, case, made["pipeline"], plan))
            found = attempt("workers", lambda: measure_workers(system, case, plan=plan, **made))
            samples |= found.pop("samples", {})
            result |= found
            if plan.cold_calls:
                samples |= attempt("tasks", lambda: measure_tasks(system, case, plan=plan, **made))
    finally:
        ray.shutdown()
    return result | {"samples": samples, "failed": failed, "part_seconds": seconds}


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
    Path(result).write_text(json.dumps(measure(system_name, case_name, extent)))
