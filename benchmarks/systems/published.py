"""The package ray-zerocopy 0.2.0 as it is on PyPI: `ModelWrapper`, for TorchScript `JITModelWrapper`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.models import Case
from benchmarks.systems import Call
from ray_zerocopy import JITModelWrapper, ModelWrapper


class Published:
    task_per_model = True

    def share(self, pipeline: Any, case: Case) -> Any:
        return (JITModelWrapper if case.scripted else ModelWrapper).from_model(pipeline, mode="actor")

    def load(self, shared: Any) -> Any:
        return shared.load()

    def for_tasks(self, pipeline: Any, case: Case) -> Call:
        if not case.scripted:
            return ModelWrapper.for_tasks(pipeline)
        # No module can hold what it puts in the place of a TorchScript module, so none can say how long that took.
        seconds = statistics.median(pipeline(*case.short_inputs)[1] for _ in range(5))
        call = JITModelWrapper.for_tasks(pipeline.model)
        return lambda *inputs: (call(*inputs), seconds)


SYSTEM = Published()
