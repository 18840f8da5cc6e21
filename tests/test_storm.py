"""A write storm: workers write to all weights without a pause, and another sees none of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
import torch
from memory import bits
from pipelines import Worker, add_one
from torch import nn

from ray_zerocopy import ActorWrapper


def weights() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4))).eval().requires_grad_(False)  # 17 MB


def all_bits(model: nn.Module) -> list[bytes]:
    return [bits(parameter) for parameter in model.parameters()]


def write(_: Any, wrapper: Any, until: float) -> tuple[int, int]:
    """Loads and writes all weights until a time; how often, and how often a fresh load had other bits than the first.

    Every fourth time it loads anew: pages are given back and taken while others write.
    """
    loaded = wrapper.load()
    first = all_bits(loaded)
    rounds = wrong = 0
    while time.time() < until:
        add_one(loaded)
        rounds += 1
        if rounds % 4 == 0:
            loaded = wrapper.load()
            wrong += all_bits(loaded) != first
    return rounds, wrong


def compare(loaded: nn.Module, expected: list[bytes], until: float) -> tuple[int, int]:
    """Compares all weights until a time; how often, and how often they were others."""
    rounds = wrong = 0
    while time.time() < until:
        wrong += all_bits(loaded) != expected
        rounds += 1
    return rounds, wrong


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("writers", "seconds"), [(3, 3), pytest.param(8, 60, marks=pytest.mark.faults)])
def test_while_workers_write_to_all_weights_another_reads_what_was_wrapped(writers: int, seconds: int) -> None:
    model = weights()
    expected = all_bits(model)
    wrapper = ActorWrapper(model)
    workers = [Worker.remote() for _ in range(writers + 1)]
    ray.get([worker.load.remote(wrapper) for worker in workers])
    *writing, reader = workers
    end = time.time() + seconds
    storm = [writer.do.remote(write, wrapper, end) for writer in writing]
    calm = reader.do.remote(compare, expected, end)
    for rounds, wrong in [*ray.get(storm), ray.get(calm)]:
        assert rounds > 0
        assert wrong == 0
    assert all_bits(wrapper.load()) == expected
    assert all_bits(model) == expected
    for worker in workers:
        ray.kill(worker)
