from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import ray

import ray_zerocopy._engine  # noqa: F401  (an editable install rebuilds the extension here if C++ changed)

TESTS = os.path.dirname(os.path.abspath(__file__))

# Workers import the tests' modules by name, as they would a user's.
os.environ["PYTHONPATH"] = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path.insert(0, TESTS)
# That was done above; workers need not run CMake to look again.
os.environ["SKBUILD_EDITABLE_SKIP"] = os.path.join(
    os.path.dirname(TESTS), "build", f"editable-{sys.implementation.cache_tag}"
)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A small Ray of this module's own: 4 CPUs by name, a store of 700 MB."""
    ray.init("local", num_cpus=4, object_store_memory=700 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
