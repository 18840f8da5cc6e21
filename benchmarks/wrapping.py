"""What the driver pays to make a model available, beside one `ray.put` of an array of the same size."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray

from benchmarks import store
from benchmarks.memory import private_bytes_beside_store
from benchmarks.models import Case, weight_bytes
from benchmarks.plan import Plan
from benchmarks.systems import System


def measure_wrapping(system: System, case: Case, pipeline: Any, plan: Plan) -> dict[str, Any]:
    """Wrap and put in turn; the first of each is not counted."""
    weights = weight_bytes(pipeline)
    array = np.ones(weights, np.uint8)
    store.touch_all()
    samples: dict[str, list[float]] = {
        "wrap_seconds": [],
        "wrap_private_bytes": [],
        "put_array_seconds": [],
        "wrap_to_put": [],
    }
    for turn in range(plan.wraps + 1):
        start = time.perf_counter()
        reference = ray.put(array)
        put_seconds = time.perf_counter() - start
        del reference
        store.wait_until_empty()

        before = private_bytes_beside_store()
        start = time.perf_counter()
        shared = system.share(pipeline, case)
        wrap_seconds = time.perf_counter() - start
        private = private_bytes_beside_store() - before
        del shared
        store.wait_until_empty()

        if turn:
            samples["wrap_seconds"].append(wrap_seconds)
            samples["wrap_private_bytes"].append(private)
            samples["put_array_seconds"].append(put_seconds)
            samples["wrap_to_put"].append(wrap_seconds / put_seconds)
    return {"weights": weights, "samples": samples}
