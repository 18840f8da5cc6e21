"""Where a resource runs out: the right answer, shared where it can be, or one clear error; and afterwards as before."""

from __future__ import annotations

import gc
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits, file_behind_weights
from object_store import until
from pipelines import Worker
from ray.exceptions import OutOfDiskError
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper

pytestmark = pytest.mark.faults

_STORE = 100 << 20
_LAYER = 4 << 20


@contextmanager
def small_ray(**options: Any) -> Iterator[None]:
    ray.shutdown()
    ray.init("local", num_cpus=1, object_store_memory=_STORE, include_dashboard=False, log_to_driver=False, **options)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def small_store() -> Iterator[None]:
    with small_ray():
        yield


@pytest.fixture(scope="module")
def processes(small_store: None) -> list[Any]:
    return [Worker.remote() for _ in range(2)]


@pytest.fixture
def workers(processes: list[Any]) -> Iterator[list[Any]]:
    yield processes
    ray.get([worker.drop.remote() for worker in processes])
    gc.collect()


def model(layers: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(layers))).eval().requires_grad_(False)


def all_bits(loaded: nn.Module) -> list[bytes]:
    return [bits(parameter) for parameter in loaded.parameters()]


def assert_right_and_shared(workers: list[Any], wrapper: Any, wrapped: nn.Module) -> None:
    ray.get([worker.load.remote(wrapper) for worker in workers])
    expected = all_bits(wrapped)
    assert all(found == expected for found in ray.get([worker.do.remote(all_bits) for worker in workers]))
    assert_one_copy([ray.get(worker.do.remote(file_behind_weights)) for worker in workers])


def assert_one_copy(places: list[tuple[str, int, int]]) -> None:
    assert len(set(places)) == 1
    assert places[0][1] != 0, "private memory has no inode"


def image_of(wrapper: Any) -> ray.ObjectRef[Any]:
    (reference,) = wrapper.constructor_kwargs["model_refs"].values()
    return ray.get(reference).image


def test_weights_that_ray_has_spilled_to_disk_are_restored_and_shared(workers: list[Any]) -> None:
    wrapped = model(layers=8)
    wrapper = ActorWrapper(wrapped)
    others = []

    def is_spilled() -> bool:
        others.append(ray.put(np.ones(20 << 20, np.uint8)))
        (where,) = ray.experimental.get_object_locations([image_of(wrapper)]).values()
        return where["did_spill"]

    assert until(is_spilled)
    assert_right_and_shared(workers, wrapper, wrapped)


def test_a_model_that_is_wrapped_while_the_store_is_full_is_shared_from_a_file(workers: list[Any]) -> None:
    in_use = [ray.get(ray.put(np.ones(20 << 20, np.uint8))) for _ in range(4)]  # which cannot be spilled
    wrapped = model(layers=10)
    assert_right_and_shared(workers, ActorWrapper(wrapped), wrapped)
    assert all(array.all() for array in in_use)


def test_a_model_larger_than_the_store_is_shared_from_a_file(workers: list[Any]) -> None:
    wrapped = model(layers=30)
    assert 30 * _LAYER > _STORE
    wrapper = ActorWrapper(wrapped)
    assert_right_and_shared(workers, wrapper, wrapped)
    assert file_behind_weights(wrapper.load()) == ray.get(workers[0].do.remote(file_behind_weights))
    x = torch.randn(1, 1024)
    torch.testing.assert_close(TaskWrapper(wrapped)(x), wrapped(x))


@contextmanager
def few_descriptors(free: int) -> Iterator[None]:
    """So many may be opened."""
    low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = [os.open(os.devnull, os.O_RDONLY) for _ in range(16)]  # in the gaps between others
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1 + free, high))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, high))
        for filler in fillers:
            os.close(filler)


@contextmanager
def no_address_space() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def no_more_mappings() -> Iterator[None]:
    """As many as `vm.max_map_count` allows."""
    mappings = []
    try:
        while True:
            mappings.append(mmap.mmap(-1, mmap.PAGESIZE))
    except OSError:
        yield
    finally:
        mappings.clear()


def outcome(wrapper: Any) -> list[bytes] | str:
    """The bits of all weights, or the error."""
    try:
        return all_bits(wrapper.load())
    except (OSError, MemoryError) as error:
        return repr(error)


def outcomes(_: Any, limit: Callable[..., AbstractContextManager[None]], *args: Any) -> list[Any]:
    """Of a load within the limit, and one after it."""
    wrapper = args[-1]
    with limit(*args[:-1]):
        limited = outcome(wrapper)
    return [limited, outcome(wrapper), file_behind_weights(wrapper.load())[1]]


LIMITS: list[tuple[Any, ...]] = [
    *((few_descriptors, free) for free in range(5)),
    (no_address_space,),
    (no_more_mappings,),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: "-".join(str(getattr(p, "__name__", p)) for p in limit))
def test_in_a_worker_that_runs_out_of_a_resource_a_load_is_right_and_the_next_is_shared(
    workers: list[Any], limit: tuple[Any, ...]
) -> None:
    wrapped = model(layers=4)
    limited, after, inode = ray.get(workers[0].do.remote(outcomes, *limit, ActorWrapper(wrapped)), timeout=60)
    assert limited == all_bits(wrapped)
    assert after == all_bits(wrapped)
    assert inode != 0


def test_in_a_worker_without_room_for_a_private_copy_a_load_is_refused_and_the_next_is_shared(
    workers: list[Any],
) -> None:
    wrapped = model(layers=22)  # more than the C library keeps in hand
    limited, after, inode = ray.get(workers[0].do.remote(outcomes, no_address_space, ActorWrapper(wrapped)), timeout=60)
    assert limited.startswith("MemoryError('Weights can be neither mapped nor copied into this process.")
    assert after == all_bits(wrapped)
    assert inode != 0


@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("free", range(5))
def test_in_a_driver_that_runs_out_of_descriptors_a_load_is_right_and_the_next_is_shared(free: int) -> None:
    wrapped = model(layers=4)
    limited, after, inode = outcomes(None, few_descriptors, free, ActorWrapper(wrapped))
    assert limited == all_bits(wrapped)
    assert after == all_bits(wrapped)
    assert inode != 0


def test_a_model_that_has_room_neither_in_the_store_nor_on_the_disk_is_refused_and_a_smaller_one_is_not() -> None:
    with small_ray(_system_config={"local_fs_capacity_threshold": 0.0001}):
        with pytest.raises(OutOfDiskError, match="Local disk is full"):
            ActorWrapper(model(layers=30))
        wrapped = model(layers=2)
        assert all_bits(ActorWrapper(wrapped).load()) == all_bits(wrapped)


def share_from(directory: str) -> None:
    """Shares a model of 34 MB where Ray has its store in a directory."""
    with small_ray(_plasma_directory=directory):
        wrapped = model(layers=8)
        assert_right_and_shared([Worker.remote() for _ in range(2)], ActorWrapper(wrapped), wrapped)


def test_weights_are_shared_from_a_store_on_disk_which_ray_makes_where_shared_memory_is_too_small(
    tmp_path: Path,
) -> None:
    share_from(str(tmp_path))


def test_weights_are_shared_where_the_shared_memory_is_smaller_than_the_store_was_told(tmp_path: Path) -> None:
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@"']
    here = str(tmp_path)
    if subprocess.run([*mount, here, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs namespaces that a user may make")
    program = "import sys, test_limits; test_limits.share_from(sys.argv[1])"
    subprocess.run([*mount, here, sys.executable, "-c", program, here], check=True, timeout=120)
