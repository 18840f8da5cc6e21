"""What is pinned is released when its last user goes."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from memory import give_back_free_memory, own_bytes
from object_store import store_in_use, store_is_empty, until
from pipelines import Worker
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper

pytestmark = pytest.mark.usefixtures("empty_store")


@pytest.fixture(scope="module")
def process(cluster: None) -> Any:
    return Worker.remote()


@pytest.fixture
def worker(process: Any) -> Iterator[Any]:
    yield process
    ray.get(process.drop.remote())


def open_files_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def large() -> nn.Module:
    return nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(18)))  # 75 MB


def test_100_rounds_of_wrap_load_and_drop_leave_nothing_in_the_store_or_the_driver(worker: Any) -> None:
    model = large()

    def rounds(count: int) -> None:
        for _ in range(count):
            wrapper = ActorWrapper(model)
            ray.get(worker.load.remote(wrapper))
            ray.get(worker.drop.remote())

    rounds(5)
    gc.collect()
    assert until(store_is_empty)
    give_back_free_memory(None)
    driver, grown = own_bytes(), ray.get(worker.grown.remote())
    rounds(95)
    gc.collect()
    assert until(store_is_empty)
    give_back_free_memory(None)
    assert own_bytes() - driver < 4 << 20
    assert ray.get(worker.grown.remote()) - grown < 4 << 20


def test_loading_leaves_no_file_descriptor_or_thread_behind(worker: Any) -> None:
    wrapper = ActorWrapper(large())

    def counts(_: Any) -> tuple[int, int]:
        return open_files_and_threads()

    ray.get(worker.load.remote(wrapper))
    ray.get(worker.drop.remote())
    before = ray.get(worker.do.remote(counts))
    for _ in range(20):
        ray.get(worker.load.remote(wrapper))
        ray.get(worker.drop.remote())
    files, threads = ray.get(worker.do.remote(counts))
    assert files <= before[0]
    assert threads <= before[1]


def test_a_loaded_pipeline_keeps_its_weights_after_the_wrapper_is_gone(worker: Any) -> None:
    model = large()
    wrapper = ActorWrapper(model)
    ray.get(worker.load.remote(wrapper))
    del wrapper
    gc.collect()
    filler = [ray.put(torch.rand(25, 1 << 20).numpy()) for _ in range(3)]  # would take the place of what was let go
    x = torch.randn(1, 1024)
    assert torch.equal(ray.get(worker.do.remote(lambda m: m(x))), model.eval()(x))
    del filler


def test_a_dropped_task_wrapper_leaves_the_store() -> None:
    wrapper = TaskWrapper(large())
    wrapper(torch.randn(1, 1024))
    assert until(lambda: store_in_use() > 70e6)
    del wrapper
    gc.collect()
    assert until(store_is_empty)
