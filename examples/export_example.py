"""What follows TorchScript: programs of torch.export, and AOTInductor's compiled ones, in task and actor wrappers.

    python examples/export_example.py

Compiling needs a C++ compiler on this machine (g++ or clang++); the workers need none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export

from ray_zerocopy import ActorWrapper, CompiledProgram, TaskWrapper

LABELS = ("sport", "politics", "science")


class Exported:
    """A pipeline around an exported program."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.model: Callable[[torch.Tensor], torch.Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, documents: torch.Tensor) -> list[str]:
        if self.model is None:
            self.model = self.program.module()  # made where it is used: unlike the program, it cannot be pickled
        return [LABELS[row] for row in self.model(documents).argmax(dim=1)]


class Compiled:
    """The same pipeline around a compiled program, which is called as it is."""

    def __init__(self, program: ExportedProgram) -> None:
        self.model = CompiledProgram.compile(program)

    def __call__(self, documents: torch.Tensor) -> list[str]:
        return [LABELS[row] for row in self.model(documents).argmax(dim=1)]


@ray.remote
class Worker:
    def __init__(self, wrapper: ActorWrapper[Any]) -> None:
        start = time.perf_counter()
        self.pipeline = wrapper.load()
        self.load_seconds = time.perf_counter() - start

    def predict(self, documents: torch.Tensor) -> list[str]:
        return self.pipeline(documents)

    def how_long_loading_took(self) -> float:
        return self.load_seconds


def show(name: str, pipeline: Exported | Compiled, documents: torch.Tensor, expected: list[str]) -> None:
    print(name)
    in_tasks = TaskWrapper(pipeline)
    print(f"  in tasks, same results as the eager model:  {in_tasks(documents) == expected}")
    wrapper = ActorWrapper(pipeline)
    workers = [Worker.remote(wrapper) for _ in range(2)]
    results = ray.get([worker.predict.remote(documents) for worker in workers])
    print(f"  in actors, same results as the eager model: {results == [expected, expected]}")
    seconds = ray.get([worker.how_long_loading_took.remote() for worker in workers])
    print(f"  loaded in {' and '.join(f'{s * 1e3:.0f} ms' for s in seconds)}")


def main() -> None:
    torch.manual_seed(0)
    hidden = [layer for _ in range(2) for layer in (nn.Linear(1024, 1024), nn.GELU())]
    model = nn.Sequential(*hidden, nn.Linear(1024, 3)).eval()
    documents = torch.randn(16, 1024)
    with torch.no_grad():
        program = export(model, (documents,), dynamic_shapes=({0: Dim("documents", min=2, max=1024)},))
        expected = [LABELS[row] for row in model(documents).argmax(dim=1)]
    start = time.perf_counter()
    compiled = Compiled(program)
    print(f"compiled once, here, in {time.perf_counter() - start:.0f} s")

    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    show(
        "a program of torch.export (the first in a process imports a good part of torch)",
        Exported(program),
        documents,
        expected,
    )
    show("a program compiled by AOTInductor", compiled, documents, expected)
    ray.shutdown()


if __name__ == "__main__":
    main()
