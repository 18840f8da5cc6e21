"""An actor that loads a shared pipeline and measures what that costs it."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import ray
import torch

from benchmarks.memory import anonymous_bytes, private_bytes
from benchmarks.models import CASES, modules_of
from benchmarks.systems import system_named

_WARM_UP = 3
"""Calls until all are alike: TorchScript optimises in the first two."""


class _Worker:
    """Everything is imported and torch is warm before the pipeline comes. One thread computes."""

    def __init__(self, system: str, case: str) -> None:
        torch.set_num_threads(1)
        self.case = CASES[case]
        self.system = system_named(system)
        tiny = self.case.build_tiny()
        with torch.no_grad():
            for _ in range(_WARM_UP):
                tiny(*self.case.inputs)
        ray.get(ray.put(b""))

    def process(self) -> int:
        return os.getpid()

    def load(self, shared: Any, steady_calls: int) -> dict[str, Any]:
        """Load, call, call again: seconds of each; and by how much this process's own memory grew with the first."""
        private, anonymous = private_bytes(), anonymous_bytes()
        start = time.perf_counter()
        self.pipeline = self.system.load(shared)
        load_seconds = time.perf_counter() - start
        first_seconds = self.call()
        private, anonymous = private_bytes() - private, anonymous_bytes() - anonymous
        return {
            "load_seconds": load_seconds,
            "first_seconds": first_seconds,
            "steady_seconds": [self.call() for _ in range(steady_calls)],
            "private_bytes": private,
            "anonymous_bytes": anonymous,
        }

    def call(self) -> float:
        """Seconds that the pipeline takes for a call of its own, without Ray."""
        with torch.no_grad():
            start = time.perf_counter()
            self.pipeline(*self.case.inputs)
            return time.perf_counter() - start

    def beside_private_copy(self, pairs: int) -> list[float]:
        """How long calls take, as a multiple of those of a private copy of the pipeline, which take turns with them."""
        shared, private = self.pipeline, copy.deepcopy(self.pipeline)
        ratios: list[float] = []
        for pair in range(-_WARM_UP, pairs):
            order = (shared, private) if pair % 2 else (private, shared)
            seconds = {}
            for self.pipeline in order:
                seconds[id(self.pipeline)] = self.call()
            if pair >= 0:
                ratios.append(seconds[id(shared)] / seconds[id(private)])
        self.pipeline = shared
        return ratios

    def weight(self) -> float:
        """One number out of the pipeline's weights."""
        return float(self._weights().flatten()[0])

    def write(self) -> None:
        """Change that number."""
        with torch.inference_mode():  # where tensors that were made in it, as some systems do, may be written to
            self._weights().add_(1)

    def _weights(self) -> torch.Tensor:
        return next(modules_of(self.pipeline)[0].parameters()).detach()


Worker = ray.remote(num_cpus=0)(_Worker)
