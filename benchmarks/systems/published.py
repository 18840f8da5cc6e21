"""The package ray-zerocopy 0.2.0 as it is on PyPI: `ModelWrapper`, for TorchScript `JITModelWrapper`."""

from __future__ import annotations

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
        return (JITModelWrapper if case.scripted else ModelWrapper).for_tasks(pipeline)


SYSTEM = Published()
