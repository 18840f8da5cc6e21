"""1,000 wraps and 10,000 loads: what a driver and a worker have of the machine stays flat. `make soak` runs it.

Each round wraps another model, loads it ten times in a worker and once in the driver, writes to what was loaded, runs
it in a task, and compares the results. A table shows what the processes and the store have at each step of the time
given. Exits with 1 if something has grown between the first step and the last, or a result was wrong.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from memory import give_back_free_memory, own_bytes
from object_store import store_in_use, store_is_empty, until
from pipelines import Worker, add_one
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper

_WRAPS = 1_000
_LOADS_A_WRAP = 10
_STEPS = 10
_MODEL_BYTES = 16 << 20


class Footprint(NamedTuple):
    """What a process has of the machine."""

    memory: int
    """Bytes of its own."""
    descriptors: int
    mappings: int
    threads: int

    @classmethod
    def of_this_process(cls, _: Any = None) -> Footprint:
        give_back_free_memory(None)
        return cls(
            own_bytes(),
            len(os.listdir("/proc/self/fd")),
            Path("/proc/self/maps").read_text().count("\n"),
            len(os.listdir("/proc/self/task")),
        )

    def has_grown_since(self, before: Footprint) -> bool:
        """By more than what a process needs now and then: half a model, and a few of everything else."""
        return (
            self.memory - before.memory > _MODEL_BYTES // 2
            or self.descriptors - before.descriptors > 8
            or self.mappings - before.mappings > 64
            or self.threads - before.threads > 4
        )


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4))).eval().requires_grad_(False)


def load_and_write(_: Any, wrapper: Any, x: torch.Tensor, expected: torch.Tensor) -> int:
    """Loads, compares and writes; how many results were wrong."""
    wrong = 0
    for _ in range(_LOADS_A_WRAP):
        loaded = wrapper.load()
        wrong += not torch.allclose(loaded(x), expected)
        add_one(loaded)
    return wrong


def one_round(number: int, worker: Any) -> int:
    """How many results were wrong."""
    original = model(number)
    x = torch.randn(2, 1024)
    expected = original(x)
    wrapper = ActorWrapper(original)
    wrong = ray.get(worker.do.remote(load_and_write, wrapper, x, expected))
    loaded = wrapper.load()
    wrong += not torch.allclose(loaded(x), expected)
    add_one(loaded)
    return wrong + (not torch.allclose(TaskWrapper(original)(x), expected))


def footprints(worker: Any) -> list[Footprint]:
    gc.collect()
    if not until(store_is_empty, seconds=60):
        print(f"{store_in_use()} bytes stay in the store", flush=True)
    return [Footprint.of_this_process(), ray.get(worker.do.remote(Footprint.of_this_process))]


def main(minutes: float) -> int:
    os.environ.setdefault("RAY_ZEROCOPY_RESIDENT_IDLE_SECONDS", "1")
    ray.init("local", num_cpus=2, object_store_memory=400 << 20, include_dashboard=False, log_to_driver=False)
    worker = Worker.remote()
    began = time.monotonic()
    print("| minutes | wraps | loads | wrong | process | memory, MB | descriptors | mappings | threads | store, MB |")
    print("| ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    wrong, steps = 0, []
    for number in range(_WRAPS):
        wrong += one_round(number, worker)
        if (number + 1) % (_WRAPS // _STEPS) == 0:
            steps.append(footprints(worker))
            show(time.monotonic() - began, number + 1, wrong, steps[-1])
        pace = began + 60 * minutes * (number + 1) / _WRAPS - time.monotonic()
        time.sleep(max(0.0, pace))
    has_grown = any(last.has_grown_since(first) for first, last in zip(steps[0], steps[-1], strict=True))
    is_left = not store_is_empty()
    print("grown" if has_grown or is_left else "flat", f"({wrong} wrong results)")
    return int(has_grown or is_left or wrong > 0)


def show(seconds: float, wraps: int, wrong: int, step: list[Footprint]) -> None:
    for name, footprint in zip(("driver", "worker"), step, strict=True):
        memory, *counts = footprint
        cells = [
            f"{seconds / 60:.1f}",
            wraps,
            wraps * (_LOADS_A_WRAP + 1),
            wrong,
            name,
            f"{memory / 1e6:.1f}",
            *counts,
            f"{store_in_use() / 1e6:.1f}",
        ]
        print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
