"""Weights stay what they are: after `ray.shutdown()` in a cluster that goes on, and in both processes of a fork."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits
from pipelines import Worker
from ray.cluster_utils import Cluster
from test_lifetime import open_files_and_threads, store_in_use, until
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ray_zerocopy import ActorWrapper

_STORE = 80 << 20
_WEIGHTS = 8 << 20


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster that goes on when this driver leaves it."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": _STORE, "include_dashboard": False}
    )
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(autouse=True)
def connected(address: str) -> None:
    connect(address)
    assert until(lambda: store_in_use() < 1 << 20)  # what earlier tests used


def connect(address: str) -> None:
    ray.init(address, log_to_driver=False, ignore_reinit_error=True)


def model() -> nn.Module:
    return nn.Linear(1024, 2048, bias=False).eval().requires_grad_(False)


def fill_the_store() -> list[ray.ObjectRef[Any]]:
    """Other objects wherever there is room."""
    return [ray.put(np.full(1 << 20, number, np.uint8)) for number in range((_STORE - 2 * _WEIGHTS) >> 20)]


def loaded_in_an_actor(weights: nn.Module) -> Any:
    """An actor that has the model, and the only pin on it."""
    worker = Worker.remote()
    ray.get(worker.load.remote(ActorWrapper(weights)))
    gc.collect()
    return worker


def private_bytes_at(address: int) -> int:
    """Bytes of this process's own in the mapping that holds an address."""
    is_it = False
    with open("/proc/self/smaps") as maps:
        for line in maps:
            first, *rest = line.split()
            if not first.endswith(":"):
                begin, end = (int(bound, 16) for bound in first.split("-"))
                is_it = begin <= address < end
            elif is_it and first == "Anonymous:":
                return int(rest[0]) * 1024
    raise AssertionError("nothing is mapped there")


def weight_bits(loaded: nn.Module) -> bytes:
    return bits(loaded.weight)


# ray.shutdown()


def test_weights_are_the_same_after_shutdown_and_init_in_the_same_cluster(address: str) -> None:
    weights = model()
    loaded = ActorWrapper(weights).load()
    ray.shutdown()
    connect(address)
    filler = fill_the_store()
    assert weight_bits(loaded) == weight_bits(weights)
    assert private_bytes_at(loaded.weight.data_ptr()) == 0  # shared still, not copied
    del filler


def test_weights_of_several_connections_are_right_side_by_side(address: str) -> None:
    weights = [model() for _ in range(3)]
    loaded = []
    for one in weights:
        connect(address)
        loaded.append(ActorWrapper(one).load())
        ray.shutdown()
    connect(address)
    filler = fill_the_store()
    assert [weight_bits(one) for one in loaded] == [weight_bits(one) for one in weights]
    del filler


def test_weights_kept_after_a_shutdown_leave_the_store_with_their_model_and_no_descriptor_stays(address: str) -> None:
    def round_trip() -> None:
        loaded = ActorWrapper(model()).load()
        ray.shutdown()
        connect(address)
        assert until(lambda: store_in_use() >= _WEIGHTS)
        del loaded
        gc.collect()
        assert until(lambda: store_in_use() < 1 << 20)

    round_trip()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        round_trip()
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # Ray's own vary


# A child that drops what it inherited


def drop_in_a_forked_child(loaded: nn.Module, leave: Callable[[], None]) -> int:
    """The child's exit status."""
    child = os.fork()
    if child == 0:
        drop(loaded)
        leave()
    return os.waitpid(child, 0)[1]


def drop(loaded: nn.Module) -> None:
    loaded._parameters.clear()
    gc.collect()


def drop_in_a_multiprocessing_child(loaded: nn.Module) -> int:
    child = multiprocessing.get_context("fork").Process(target=drop, args=(loaded,))
    child.start()
    child.join()
    return child.exitcode or 0


class Rows(Dataset[torch.Tensor]):
    """Holds the model, and lets go of it with the last row."""

    def __init__(self, loaded: nn.Module) -> None:
        self.model: nn.Module | None = loaded

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> torch.Tensor:
        if self.model is None:
            return torch.empty(0)
        result = self.model.weight[row].clone()
        drop(self.model)
        self.model = None
        return result


def drop_in_the_workers_of_a_data_loader(loaded: nn.Module) -> int:
    rows = list(DataLoader(Rows(loaded), batch_size=None, num_workers=2, multiprocessing_context="fork"))
    return 0 if torch.equal(rows[0], loaded.weight[0]) else 1


CHILDREN = {
    "os._exit": lambda loaded: drop_in_a_forked_child(loaded, lambda: os._exit(0)),
    "sys.exit": lambda loaded: drop_in_a_forked_child(loaded, lambda: sys.exit(0)),
    "multiprocessing": drop_in_a_multiprocessing_child,
    "DataLoader": drop_in_the_workers_of_a_data_loader,
}


@pytest.mark.parametrize("children", CHILDREN)
def test_a_forked_child_that_drops_what_it_inherited_leaves_its_parents_weights_alone(children: str) -> None:
    weights = model()
    worker = loaded_in_an_actor(weights)
    assert ray.get(worker.do.remote(CHILDREN[children])) == 0
    filler = fill_the_store()
    assert ray.get(worker.do.remote(weight_bits)) == weight_bits(weights)
    del filler


# A parent that drops what its child has


class Child:
    """A forked process that keeps the model and tells its weights when asked."""

    def __init__(self, loaded: nn.Module) -> None:
        self.asked, self.ask = os.pipe()
        self.answer, answered = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.ask)
            if os.read(self.asked, 1):
                with open(answered, "wb") as out:
                    out.write(weight_bits(loaded))
            os._exit(0)
        os.close(answered)

    def weights(self) -> bytes:
        """The child's; it ends."""
        os.write(self.ask, b"?")
        with open(self.answer, "rb") as answer:
            weights = answer.read()
        self.end()
        return weights

    def end(self) -> None:
        os.close(self.ask)
        os.close(self.asked)
        os.waitpid(self.process, 0)


@ray.remote(num_cpus=0)
class Forking:
    """An actor that forks while it has a model, and then drops it."""

    def __init__(self, wrapper: ActorWrapper) -> None:
        self.before = open_files_and_threads()
        loaded = wrapper.load()
        self.child = Child(loaded)

    def weights_of_child(self) -> bytes:
        return self.child.weights()

    def files_and_threads_more(self) -> tuple[int, int]:
        files, threads = open_files_and_threads()
        return files - self.before[0], threads - self.before[1]


def test_a_forked_child_has_its_weights_after_its_parent_dropped_the_model_and_nothing_stays_behind() -> None:
    weights = model()
    worker = Forking.remote(ActorWrapper(weights))
    ray.get(worker.files_and_threads_more.remote())
    gc.collect()
    filler = fill_the_store()
    assert ray.get(worker.weights_of_child.remote()) == weight_bits(weights)
    del filler
    assert until(lambda: store_in_use() < 1 << 20)  # though nothing of the package runs in the actor any more
    assert until(lambda: ray.get(worker.files_and_threads_more.remote()) <= (1, 0))
