"""What publishing by name costs: content that the cluster has already costs nothing, and new content one copy more."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from keeper_actor import run_program
from memory import bits
from object_store import bytes_put, store_in_use, until
from torch import nn

import ray_zerocopy.transport.keeper
from ray_zerocopy import ActorWrapper, TaskWrapper, get_wrapper
from ray_zerocopy.transport.keeper import SegmentKey

pytestmark = pytest.mark.usefixtures("cluster", "names_end")

MEGABYTES = 72
SIZE = MEGABYTES << 20
LITTLE = 8 << 20


def layers(seed: int, megabytes: int = MEGABYTES) -> nn.Sequential:
    """Weights of 4 MB each."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False, device="meta") for _ in range(megabytes // 4)))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def all_bits(model: Any) -> list[bytes]:
    return [bits(parameter) for parameter in model.parameters()]


def anonymous_bytes() -> int:
    """Bytes of this process's memory behind which there is no file."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@contextmanager
def peak(measure: Callable[[], int]) -> Iterator[list[int]]:
    """What `measure` rises by meanwhile; known at the end."""
    gc.collect()
    found, ended, before = [0], threading.Event(), measure()

    def watch() -> None:
        while not ended.is_set():
            found[0] = max(found[0], measure() - before)
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        ended.set()
        watching.join()


def test_a_new_model_is_put_twice_at_most_and_an_equal_one_not_at_all() -> None:
    ActorWrapper(layers(0, 4), name="first")  # the keeper and its connections are there now
    model, equal = layers(1), layers(1)
    before = bytes_put()
    with peak(anonymous_bytes) as grown:
        ActorWrapper(model, name="new")
    assert bytes_put() - before < 2 * SIZE + LITTLE
    assert grown[0] < LITTLE
    for number, wrap in enumerate((ActorWrapper, TaskWrapper)):
        before = bytes_put()
        with peak(anonymous_bytes) as grown:
            wrapper: Any = wrap(equal, name=f"equal {number}")
        assert bytes_put() - before < LITTLE
        assert grown[0] < LITTLE
    assert until(lambda: SIZE < store_in_use() < SIZE + LITTLE)
    x = torch.randn(1, 1024)
    assert bits(wrapper(x)) == bits(model(x))
    assert all_bits(get_wrapper("equal 0").load()) == all_bits(model)


def test_of_a_model_that_is_known_in_part_only_the_rest_is_put() -> None:
    base = layers(0)
    ActorWrapper(base, name="base")
    pipeline = [base, layers(1, 12)]
    before = bytes_put()
    ActorWrapper(pipeline, name="more")
    assert bytes_put() - before < 2 * (12 << 20) + LITTLE
    assert [all_bits(model) for model in get_wrapper("more").load()] == [all_bits(model) for model in pipeline]


def test_replacing_a_model_by_an_equal_one_puts_nothing() -> None:
    ActorWrapper(layers(0), name="model")
    before = bytes_put()
    ActorWrapper(layers(0), name="model", replace=True)
    assert bytes_put() - before < LITTLE
    assert all_bits(get_wrapper("model").load()) == all_bits(layers(0))


@pytest.mark.parametrize("lost_again", [0, 1])
def test_what_is_freed_between_the_answer_and_the_publication_follows(
    lost_again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [layers(seed, 8) for seed in range(2)]
    named = [ActorWrapper(model, name=f"known {seed}") for seed, model in enumerate(known)]
    asked_for: list[int] = []
    put = ray_zerocopy.transport.keeper._put

    def freeing_put(segments: dict[SegmentKey, Any]) -> Any:
        asked_for.append(len(segments))
        if len(named) > 1 - lost_again:
            named.pop().free()
        return put(segments)

    monkeypatch.setattr(ray_zerocopy.transport.keeper, "_put", freeing_put)
    pipeline = [*known, layers(2, 8)]
    wrapper = ActorWrapper(pipeline, name="all")
    assert asked_for == [2, 2, 2][: 2 + lost_again]
    assert [all_bits(model) for model in wrapper.load()] == [all_bits(model) for model in pipeline]


def test_two_threads_that_publish_equal_content_at_once_share_one_copy() -> None:
    start = threading.Barrier(4)

    def publish(number: int) -> None:
        model = layers(0)
        start.wait()
        ActorWrapper(model, name=f"model {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(4)))
    assert until(lambda: SIZE < store_in_use() < SIZE + LITTLE)
    assert all(all_bits(get_wrapper(f"model {n}").load()) == all_bits(layers(0)) for n in range(4))


PROGRAM = """
import time
from ray_zerocopy import ActorWrapper
from test_publishing_by_name import layers
model = layers(0)
time.sleep(max(0, {start} - time.time()))
for round in range(3):
    wrapper = ActorWrapper(model, name="{name}", replace=True, lifetime="detached")
    if round < 2:
        wrapper.free()
"""


def test_two_programs_that_publish_and_free_equal_content_at_once_get_what_they_published() -> None:
    start = time.time() + 6
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: run_program(PROGRAM.format(start=start, name=name)), ["one", "other"]))
    assert until(lambda: SIZE < store_in_use() < SIZE + LITTLE)
    assert all(all_bits(get_wrapper(name).load()) == all_bits(layers(0)) for name in ("one", "other"))
