"""Weights stay what they are: in both processes of a fork, and after `ray.shutdown()` in a cluster that goes on."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits
from object_store import store_is_empty, until
from pipelines import Worker
from ray.cluster_utils import Cluster
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ray_zerocopy import ActorWrapper
from ray_zerocopy.image import freeze
from ray_zerocopy.transport import store

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


def connect(address: str) -> None:
    ray.init(address, log_to_driver=False)


@pytest.fixture(scope="module")
def worker(address: str) -> Any:
    connect(address)
    return Worker.remote()


def model() -> nn.Module:
    return nn.Linear(1024, 2048, bias=False).eval().requires_grad_(False)


def digest(loaded: nn.Module) -> str:
    """Of the weights."""
    return hashlib.sha256(bits(loaded.weight)).hexdigest()


def fill_the_store() -> list[ray.ObjectRef[Any]]:
    """Other objects wherever there is room."""
    return [ray.put(np.full(2 << 20, number, np.uint8)) for number in range((_STORE - 2 * _WEIGHTS) >> 21)]


def load(worker: Any, weights: nn.Module) -> None:
    """Has the worker load the model, and hold the only pin on it."""
    assert until(store_is_empty)  # what earlier tests used
    ray.get(worker.load.remote(ActorWrapper(weights)))
    gc.collect()


def drop(loaded: nn.Module) -> None:
    loaded._parameters.clear()
    gc.collect()


def drop_in_a_forked_child(loaded: nn.Module) -> int:
    """The child's exit status, as the functions below."""
    child = os.fork()
    if child == 0:
        drop(loaded)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def drop_in_a_grandchild(loaded: nn.Module) -> int:
    child = os.fork()
    if child == 0:
        os._exit(drop_in_a_forked_child(loaded))
    return os.waitpid(child, 0)[1]


def drop_and_exit(loaded: nn.Module) -> None:
    drop(loaded)
    sys.exit(0)


def drop_in_a_multiprocessing_child(loaded: nn.Module) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=drop_and_exit, args=(loaded,))
    child.start()
    child.join()
    return child.exitcode


class Rows(Dataset[torch.Tensor]):
    """Holds the model, and lets go of it with the first row."""

    def __init__(self, loaded: nn.Module) -> None:
        self.model: nn.Module | None = loaded

    def __len__(self) -> int:
        return 4

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


@pytest.mark.parametrize(
    "drop_in_child",
    [
        drop_in_a_forked_child,
        drop_in_a_grandchild,
        drop_in_a_multiprocessing_child,
        drop_in_the_workers_of_a_data_loader,
    ],
)
def test_a_forked_child_that_drops_what_it_inherited_leaves_its_parents_weights_alone(
    worker: Any, drop_in_child: Callable[[nn.Module], int]
) -> None:
    weights = model()
    load(worker, weights)
    assert ray.get(worker.do.remote(drop_in_child)) == 0
    filler = fill_the_store()
    assert ray.get(worker.do.remote(digest)) == digest(weights)
    del filler
    ray.get(worker.drop.remote())


class Child:
    """A forked process that keeps the model, and tells its weights when asked."""

    def __init__(self, loaded: nn.Module) -> None:
        asked, self.ask = os.pipe()
        self.answer, answer = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.ask)
            if os.read(asked, 1):
                os.write(answer, digest(loaded).encode())
            os._exit(0)
        os.close(asked)
        os.close(answer)

    def digest(self) -> str:
        """Of the child's weights; it ends."""
        os.write(self.ask, b"?")
        os.close(self.ask)
        with open(self.answer) as answer:
            found = answer.read()
        os.waitpid(self.process, 0)
        return found


_children: list[Child] = []
"""In the worker."""


def fork(loaded: nn.Module) -> None:
    _children.append(Child(loaded))


def digest_in_child(_: Any) -> str:
    return _children.pop().digest()


def collect(_: Any) -> None:
    gc.collect()


def descriptors(kind: str) -> int:
    """How many pipes, or sockets, this process has open."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith(kind)
    return count


def pipes(_: Any) -> int:
    return descriptors("pipe")


def test_a_forked_child_has_its_weights_after_its_parent_dropped_the_model(worker: Any) -> None:
    weights = model()
    load(worker, weights)
    before = ray.get(worker.do.remote(pipes))
    ray.get(worker.do.remote(fork))
    ray.get(worker.drop.remote())
    ray.get(worker.do.remote(collect))
    filler = fill_the_store()
    assert ray.get(worker.do.remote(digest_in_child)) == digest(weights)
    del filler
    # The worker runs nothing of the package any more, and yet:
    assert until(store_is_empty)
    assert ray.get(worker.do.remote(pipes)) == before


EXITING_CHILD = """
import mmap, os, sys
import numpy as np
from ray_zerocopy import _engine

class Told:
    def __init__(self):
        self.process = os.getpid()
    def __del__(self):
        print("given back", "by a child" if os.getpid() != self.process else "by its owner", flush=True)

view = _engine.View([bytes(64)])
view.keep(Told())
array = view.segment(0)
if os.fork() == 0:
    sys.exit(0)
os.wait()
del view, array
"""


def test_a_child_whose_interpreter_ends_gives_nothing_back() -> None:
    said = subprocess.run([sys.executable, "-c", EXITING_CHILD], check=True, capture_output=True, text=True).stdout
    assert said == "given back by its owner\n"


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


def test_weights_stay_what_they_are_and_shared_through_shutdowns_in_a_cluster_that_goes_on(address: str) -> None:
    weights = [model(), model()]
    loaded = []
    for one in weights:
        ray.shutdown()
        connect(address)
        loaded.append(ActorWrapper(one).load())
    ray.shutdown()
    connect(address)
    filler = fill_the_store()
    assert [digest(one) for one in loaded] == [digest(one) for one in weights]
    assert [private_bytes_at(one.weight.data_ptr()) for one in loaded] == [0, 0]
    del filler


def test_the_store_has_its_room_again_when_a_model_goes_that_outlived_a_shutdown(address: str) -> None:
    loaded = ActorWrapper(model()).load()
    ray.shutdown()
    held = descriptors("socket")
    drop(loaded)
    assert descriptors("socket") < held  # the connection, and with it the pins
    connect(address)


@contextlib.contextmanager
def hidden_connection() -> Iterator[None]:
    """Takes the descriptors of the connection to the store out of this process: they travel from it to itself."""
    names = {node["ObjectStoreSocketName"] for node in ray.nodes()}
    taken: list[int] = []
    sender, receiver = socket.socketpair()
    with sender, receiver, open(os.devnull) as nothing:
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                if connection.getpeername() in names:
                    socket.send_fds(sender, [b"."], [descriptor])
                    os.dup2(nothing.fileno(), descriptor)
                    taken.append(descriptor)
        yield
        for descriptor in taken:
            _, (again,), _, _ = socket.recv_fds(receiver, 1, 1)
            os.dup2(again, descriptor)
            os.close(again)


def test_weights_are_a_private_copy_where_the_connection_to_the_store_is_not_found() -> None:
    weights = model()
    image, _ = store.fetch(store.publish(freeze(weights)))
    with hidden_connection():
        loaded = store.load(image)
    assert loaded.view is not None
    assert loaded.view.copied_bytes == loaded.view.nbytes
    assert digest(loaded.root) == digest(weights)
    assert ray.get(ray.put(image.nbytes)) == image.nbytes
