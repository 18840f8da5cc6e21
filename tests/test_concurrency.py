"""Several loads, calls and copies at once in one process; and again and again, without growth."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray
import torch
from memory import bits, give_back_free_memory, own_bytes
from object_store import store_in_use, until
from pipelines import Classifier, add_one
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper

_MODEL_BYTES = 16 << 20
_ROUNDS = 20


pytestmark = pytest.mark.usefixtures("empty_store")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4))).eval().requires_grad_(False)


def all_bits(loaded: nn.Module) -> list[bytes]:
    return [bits(parameter) for parameter in loaded.parameters()]


def in_threads(work: Callable[[int], Any], threads: int = 8, times: int = 24) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(times)))


def test_threads_that_load_write_and_drop_at_once_each_have_weights_of_their_own() -> None:
    original = model()
    wrapper = ActorWrapper(original)
    expected = all_bits(original)
    kept = wrapper.load()

    def load_and_write(number: int) -> bool:
        loaded = wrapper.load()
        was_right = all_bits(loaded) == expected
        with torch.no_grad():
            for parameter in loaded.parameters():
                parameter.fill_(number)
        return was_right and all(bool((parameter == number).all()) for parameter in loaded.parameters())

    assert all(in_threads(load_and_write))
    assert all_bits(kept) == expected


def test_threads_that_load_different_models_at_once_each_get_their_own() -> None:
    models = [nn.Linear(1024, 1024, bias=False).requires_grad_(False) for _ in range(4)]
    wrappers = [ActorWrapper(each) for each in models]
    expected = [all_bits(each) for each in models]
    assert all(in_threads(lambda number: all_bits(wrappers[number % 4].load()) == expected[number % 4]))


def test_threads_may_load_models_at_once_that_torch_traces_as_they_load() -> None:
    original = torch.fx.symbolic_trace(nn.Sequential(*(nn.Linear(8, 8) for _ in range(50))).eval())
    wrapper = ActorWrapper(original)
    x = torch.ones(2, 8)
    assert [bits(loaded(x)) for loaded in in_threads(lambda _: wrapper.load(), times=40)] == [bits(original(x))] * 40


def test_threads_call_a_task_wrapper_at_once() -> None:
    classifier = Classifier().eval()
    wrapper = TaskWrapper(classifier)
    inputs = [torch.randn(2, 16) for _ in range(24)]
    for x, result in zip(inputs, in_threads(lambda number: wrapper(inputs[number])), strict=True):
        torch.testing.assert_close(result, classifier(x))


@ray.remote(num_cpus=0)
class Async:
    """Loads, and calls tasks, in several coroutines at once."""

    async def load(self, wrapper: Any) -> list[bytes]:
        loaded = wrapper.load()
        await asyncio.sleep(0)
        found = all_bits(loaded)
        add_one(loaded)
        return found

    async def call(self, wrapper: Any, x: torch.Tensor) -> torch.Tensor:
        return await asyncio.to_thread(wrapper, x)


def test_an_async_actor_loads_and_calls_tasks_in_coroutines_at_once() -> None:
    original, classifier = model(), Classifier().eval()
    wrapper, tasks = ActorWrapper(original), TaskWrapper(classifier)
    actor = Async.remote()
    x = torch.randn(2, 16)
    loads = [actor.load.remote(wrapper) for _ in range(8)]
    calls = [actor.call.remote(tasks, x) for _ in range(8)]
    expected = all_bits(original)
    assert all(found == expected for found in ray.get(loads, timeout=60))
    for result in ray.get(calls, timeout=60):
        torch.testing.assert_close(result, classifier(x))
    ray.kill(actor)


def test_deep_copies_of_a_loaded_model_are_independent_and_leave_nothing_behind() -> None:
    original = model()
    loaded = ActorWrapper(original).load()
    expected = all_bits(original)
    copied = copy.deepcopy(loaded)
    add_one(copied)
    assert all_bits(loaded) == expected
    add_one(loaded)
    assert all_bits(copied) == all_bits(loaded)
    del copied
    give_back_free_memory(None)
    before = own_bytes()
    for _ in range(_ROUNDS):
        copy.deepcopy(loaded)
    give_back_free_memory(None)
    assert own_bytes() - before < _MODEL_BYTES // 2


def test_a_copy_outlives_the_model_and_the_wrapper_that_it_came_from() -> None:
    original = model()
    copied = copy.deepcopy(ActorWrapper(original).load())
    gc.collect()
    assert all_bits(copied) == all_bits(original)


def test_wrapping_what_was_loaded_again_and_again_grows_neither_memory_nor_store() -> None:
    original = model()
    loaded = ActorWrapper(original).load()
    give_back_free_memory(None)
    before, files = own_bytes(), len(os.listdir("/proc/self/fd"))
    for _ in range(_ROUNDS):
        loaded = ActorWrapper(loaded).load()
    assert until(lambda: store_in_use() < 2 * _MODEL_BYTES)
    assert all_bits(loaded) == all_bits(original)
    give_back_free_memory(None)
    assert own_bytes() - before < _MODEL_BYTES // 2
    assert len(os.listdir("/proc/self/fd")) <= files
