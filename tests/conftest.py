from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
import ray
from keeper_actor import free_all
from object_store import store_in_use, store_is_empty, until
from programs import DEPTH, WIDTH, exported, stack

from ray_zerocopy import CompiledProgram  # an editable install rebuilds the extension here if C++ changed

TESTS = os.path.dirname(os.path.abspath(__file__))

# Workers import the tests' modules by name, as they would a user's.
os.environ["PYTHONPATH"] = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path.insert(0, TESTS)
# That was done above; workers need not run CMake to look again.
os.environ["SKBUILD_EDITABLE_SKIP"] = os.path.join(
    os.path.dirname(TESTS), "build", f"editable-{sys.implementation.cache_tag}"
)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tests that look at the store need not wait long for what workers kept of earlier ones.
os.environ.setdefault("RAY_ZEROCOPY_RESIDENT_IDLE_SECONDS", "5")


def runs_in_cluster(item: pytest.Item) -> bool:
    return "cluster" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in the shared cluster come first, whatever their modules: it starts once, and other tests find no Ray."""
    items.sort(key=lambda item: not runs_in_cluster(item))


@pytest.fixture(scope="module")
def cluster() -> None:
    """A small Ray that modules share: 4 CPUs by name, a store of 700 MB."""
    if not ray.is_initialized():
        start_cluster()


def start_cluster() -> None:
    ray.init("local", num_cpus=4, object_store_memory=700 << 20, include_dashboard=False, log_to_driver=False)


@pytest.fixture(scope="module")
def new_cluster(cluster: None) -> None:
    """The shared cluster with new workers: some of earlier tests' hold weights for good, as an attack on others."""
    gc.collect()
    ray.shutdown()
    start_cluster()


@pytest.fixture
def empty_store(cluster: None) -> Iterator[None]:
    """The shared cluster with nothing in its store, where a test leaves nothing either."""
    gc.collect()
    assert until(store_is_empty), f"earlier tests left {store_in_use()} bytes in the store"
    yield
    gc.collect()
    assert until(store_is_empty), f"{store_in_use()} bytes stay pinned"


@pytest.fixture
def names_end(cluster: None) -> Iterator[None]:
    """The names that a test gave to models are free again when it ends."""
    yield
    free_all()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if runs_in_cluster(item) and not (nextitem and runs_in_cluster(nextitem)):
        ray.shutdown()


@pytest.fixture(scope="session")
def compiled() -> CompiledProgram:
    """A program of 100 MB: compiling it takes a while."""
    return CompiledProgram.compile(exported(stack(WIDTH, DEPTH), WIDTH))
