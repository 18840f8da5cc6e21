"""Tasks that are given GPUs. Ray counts those that a node claims to have, so that no machine needs any for this."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
import torch
from memory import bits
from object_store import until
from pipelines import Classifier
from torch import nn

from ray_zerocopy import TaskWrapper

pytestmark = pytest.mark.faults

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


class Given(NamedTuple):
    """What a task was given, and where it ran."""

    process: int
    gpus: float
    visible: str | None
    """The devices that CUDA would see."""
    result: bytes


class Model(nn.Module):
    """Waits for a file before it computes, if it is told of one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classifier = Classifier().eval()

    def forward(self, x: torch.Tensor, awaited: Path | None = None) -> Given:
        while awaited is not None and not awaited.exists():
            time.sleep(0.01)
        with torch.no_grad():
            result = self.classifier(x)
        given = ray.get_runtime_context().get_assigned_resources()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return Given(os.getpid(), given.get("GPU", 0.0), visible, bits(result))


class Pipeline:
    def __init__(self) -> None:
        self.model = Model().eval()

    def __call__(self, x: torch.Tensor, awaited: Path | None = None) -> Given:
        """In a task of its own with `remote`; here, with the model in a task, when called."""
        return self.model(x, awaited)

    def each(self, x: torch.Tensor, number: int) -> Iterator[Given]:
        for _ in range(number):
            yield self.model(x)


def expected() -> bytes:
    with torch.no_grad():
        return bits(Model().classifier(X))


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    options: dict[str, Any] = {"object_store_memory": 100 << 20, "include_dashboard": False, "log_to_driver": False}
    ray.init("local", num_cpus=4, num_gpus=2, **options)
    yield
    ray.shutdown()


def test_each_task_has_the_gpu_that_it_asks_for_in_a_worker_of_its_own_and_answers_with_equal_bits() -> None:
    wrapper = TaskWrapper(Pipeline())
    whole, half = wrapper.options(num_gpus=1), wrapper.options(num_gpus=0.5)
    halves = half.map([X, X])
    streamed = half.each.remote(X, 2)
    with_whole = [ray.get(whole.remote(X)), whole(X)]
    with_half = [*halves, *(ray.get(value) for value in streamed)]
    assert {given.gpus for given in with_whole} == {1}
    assert {given.gpus for given in with_half} == {0.5}
    with_gpu = [*with_whole, *with_half]
    assert {given.result for given in with_gpu} == {expected()}
    assert {given.visible for given in with_gpu} <= {"0", "1"}
    # CUDA reads once in a process which devices it may use: another task may be given another one.
    processes = {given.process for given in with_gpu}
    assert len(processes) == 5  # of the stream's one task come two answers
    without = [*ray.get([wrapper.remote(X) for _ in range(4)]), wrapper(X)]
    assert {(given.gpus, given.result) for given in without} == {(0, expected())}
    assert not processes & {given.process for given in without}


def test_a_task_waits_while_all_gpus_are_taken(tmp_path: Path) -> None:
    released = tmp_path / "released"
    optioned = TaskWrapper(Pipeline()).options(num_gpus=1, num_cpus=0)
    first = [optioned.remote(X, released) for _ in range(2)]
    assert until(lambda: ray.available_resources().get("GPU", 0) == 0)
    third = optioned.remote(X)
    assert ray.wait([third], timeout=3)[0] == []
    released.touch()
    assert {given.result for given in ray.get([*first, third])} == {expected()}


def test_a_task_that_asks_for_more_gpus_than_any_node_has_waits_and_can_be_cancelled() -> None:
    wrapper = TaskWrapper(Pipeline())
    task = wrapper.options(num_gpus=3).remote(X)
    assert ray.wait([task], timeout=3)[0] == []
    ray.cancel(task)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(task)
    assert ray.get(wrapper.remote(X)).result == expected()
