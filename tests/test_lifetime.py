"""What is pinned is released when its last user goes."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import ray
import torch
from memory import own_bytes
from pipelines import Worker
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper

pytestmark = pytest.mark.usefixtures("cluster")


def store_in_use() -> int:
    """Bytes in use in the node's object store, by the raylet's own count."""
    total = ray.cluster_resources()["object_store_memory"]
    return int(total - ray.available_resources().get("object_store_memory", 0))


def until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether `condition` comes true within a bound; Ray frees and reports in its own time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def open_files_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def large() -> nn.Module:
    return nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(18)))  # 75 MB


def test_200_rounds_of_wrap_load_and_drop_leave_nothing_in_the_store_or_the_driver() -> None:
    model = large()
    worker = Worker.remote()

    def rounds(count: int) -> None:
        for _ in range(count):
            wrapper = ActorWrapper(model)
            ray.get(worker.load.remote(wrapper))
            ray.get(worker.drop.remote())

    rounds(5)
    gc.collect()
    assert until(lambda: store_in_use() < 1 << 20)
    driver, grown = own_bytes(), ray.get(worker.grown.remote())
    rounds(195)
    gc.collect()
    assert until(lambda: store_in_use() < 1 << 20)
    assert own_bytes() - driver < 8 << 20
    assert ray.get(worker.grown.remote()) - grown < 8 << 20


def test_loading_leaves_no_file_descriptor_or_thread_behind() -> None:
    wrapper = ActorWrapper(large())
    worker = Worker.remote()

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


def test_a_loaded_pipeline_keeps_its_weights_after_the_wrapper_is_gone() -> None:
    model = large()
    worker = Worker.remote()
    wrapper = ActorWrapper(model)
    ray.get(worker.load.remote(wrapper))
    del wrapper
    gc.collect()
    filler = [ray.put(torch.rand(25, 1 << 20).numpy()) for _ in range(3)]  # would take the place of what was let go
    x = torch.randn(1, 1024)
    assert torch.equal(ray.get(worker.do.remote(lambda m: m(x))), model.eval()(x))
    del filler


def test_a_dropped_task_wrapper_leaves_the_store() -> None:
    assert until(lambda: store_in_use() < 1 << 20)  # what earlier tests used
    wrapper = TaskWrapper(large())
    wrapper(torch.randn(1, 1024))
    assert until(lambda: store_in_use() > 70e6)
    del wrapper
    gc.collect()
    assert until(lambda: store_in_use() < 1 << 20)
