"""The ways to share a model that are compared; one file each, imported only in the processes that measure it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.models import Case

Call = Callable[..., Any]


class System(Protocol):
    """One way to share a pipeline between Ray workers."""

    task_per_model: bool
    """Whether a call in task mode is a task for each model of the pipeline, or one for all."""

    def share(self, pipeline: Any, case: Case) -> Any:
        """Called in the driver: makes the pipeline available to workers. Returns what to send them."""

    def load(self, shared: Any) -> Any:
        """Called in a worker: the pipeline, ready to be called."""

    def for_tasks(self, pipeline: Any, case: Case) -> Call:
        """Called in the driver: what to call there so that the models run in Ray tasks."""


@dataclass(frozen=True)
class Entry:
    """A system's name, and what its processes need."""

    title: str
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)
    published: bool = False
    """Runs in the environment with the published package (see `benchmarks.published_environment`)."""


OURS = "ray_zerocopy"
PUBLISHED = "published"
RAY_FLAG = "ray_flag"
RAY_PUT = "ray_put"
SAFETENSORS = "safetensors"

SYSTEMS = {
    OURS: Entry("ray_zerocopy", "this_one"),
    PUBLISHED: Entry("ray-zerocopy 0.2.0", "published", published=True),
    RAY_FLAG: Entry("Ray's zero-copy flag", "ray_put", {"RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}),
    RAY_PUT: Entry("`ray.put`", "ray_put"),
    SAFETENSORS: Entry("safetensors files", "safetensors_files"),
}
"""In the order of a run: those that the targets compare follow each other, as a machine's speed drifts."""


def system_named(name: str) -> System:
    """Import and make one of `SYSTEMS`."""
    made: System = importlib.import_module(f"benchmarks.systems.{SYSTEMS[name].module}").SYSTEM
    return made
