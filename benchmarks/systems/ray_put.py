"""Plain Ray: the pipeline is put into the object store whole, and every worker gets it from there."""

from __future__ import annotations

from typing import Any

import ray
import torch

from benchmarks.models import Case
from benchmarks.systems import Call


@ray.remote
def _call(pipeline: Any, *inputs: torch.Tensor) -> Any:
    with torch.no_grad():
        return pipeline(*inputs)


class RayPut:
    task_per_model = False

    def share(self, pipeline: Any, case: Case) -> Any:
        return [ray.put(pipeline)]  # in a list, or Ray would get it before it calls the worker

    def load(self, shared: Any) -> Any:
        return ray.get(shared[0])

    def for_tasks(self, pipeline: Any, case: Case) -> Call:
        reference = ray.put(pipeline)
        return lambda *inputs: ray.get(_call.remote(reference, *inputs))


SYSTEM = RayPut()
