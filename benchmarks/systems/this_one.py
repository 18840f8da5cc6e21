"""This package: `ActorWrapper` and `TaskWrapper`, for TorchScript `JITActorWrapper` and `JITTaskWrapper`."""

from __future__ import annotations

from typing import Any

from benchmarks.models import Case
from benchmarks.systems import Call
from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper


class ThisOne:
    task_per_model = True

    def share(self, pipeline: Any, case: Case) -> Any:
        return JITActorWrapper(pipeline) if case.scripted else ActorWrapper(pipeline)

    def load(self, shared: Any) -> Any:
        return shared.load()

    def for_tasks(self, pipeline: Any, case: Case) -> Call:
        return JITTaskWrapper(pipeline) if case.scripted else TaskWrapper(pipeline)


SYSTEM = ThisOne()
