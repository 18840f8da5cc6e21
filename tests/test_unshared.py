"""Where weights cannot be shared: what is loaded is right and private, and one warning says why and what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

TESTS = os.path.dirname(os.path.abspath(__file__))

# What is between a worker and the process that holds its weights, and what the warning names as the way out.
UNSHARED = {
    "a PID namespace": r"--pid=host",
    "a PID namespace without its proc": r"--pid=host",
    "no proc": r"mount a proc file system",
    "a proc that hides others": r"hidepid",
    "another user": r"same user",
    "seccomp without statx": r"seccomp",
    "seccomp without getdents64": r"seccomp",
}


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    program = [sys.executable, os.path.join(TESTS, "unshared.py")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def seen(cases: dict[str, Any], case: str) -> dict[str, Any]:
    found: dict[str, Any] = cases[case]
    if "cannot be made" in found:
        pytest.skip(found["cannot be made"])
    return found


@pytest.mark.parametrize("case", ["nothing between them", "seccomp without what is new"])
def test_weights_are_shared_where_nothing_is_in_the_way(cases: dict[str, Any], case: str) -> None:
    assert seen(cases, case) == {"right": True, "isolated": True, "shared": True, "said": []}


@pytest.mark.parametrize(("case", "way_out"), UNSHARED.items())
def test_weights_that_cannot_be_shared_are_private_copies_and_it_is_said_once_why_and_what_to_do(
    cases: dict[str, Any], case: str, way_out: str
) -> None:
    found = seen(cases, case)
    (said,) = found.pop("said")
    assert found == {"right": True, "isolated": True, "shared": False}
    assert "private copy" in said
    assert way_out in said


SERVER = """
import socket, sys
import ray
from ray.util.client.server.server import serve
ray.init("local", num_cpus=1, object_store_memory=80 << 20, include_dashboard=False)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = serve("127.0.0.1", port)
print(port, flush=True)
sys.stdin.read()
server.stop(0)
"""

CLIENT = """
import json, sys
import ray, torch
from ray_zerocopy import ActorWrapper, TaskWrapper
from pipelines import Worker
from unshared import called_with, model, seen_of

ray.init(f"ray://127.0.0.1:{sys.argv[1]}")
wrapper = ActorWrapper(model())
found = seen_of(wrapper.constructor_kwargs["pipeline_skeleton"].image)
x = torch.ones(1, 1024)
with torch.no_grad():
    expected = model()(x)
    worker = Worker.remote()
    ray.get(worker.load.remote(wrapper))
    found["right in an actor"] = torch.allclose(ray.get(worker.do.remote(called_with, x)), expected)
    found["right in a task"] = torch.allclose(TaskWrapper(model())(x), expected)
print(json.dumps(found))
"""


@pytest.mark.faults
def test_ray_client_loads_private_copies_and_says_once_why_and_what_to_do() -> None:
    # A token is for clusters that others can reach.
    environment = dict(os.environ, RAY_AUTH_MODE="disabled")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        port = next(line for line in server.stdout if line.strip().isdigit()).strip()
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, port], capture_output=True, text=True, timeout=200, env=environment
        )
        assert server.stdin is not None
        server.stdin.close()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (said,) = found.pop("said")
    assert found == {
        "right": True,
        "isolated": True,
        "shared": False,
        "right in an actor": True,
        "right in a task": True,
    }
    assert "Ray Client" in said
    assert "in actors or tasks" in said
