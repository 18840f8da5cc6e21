"""Ray Serve: applications whose models outlive whatever deployed them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from memory import weight_bytes
from object_store import store_in_use, until
from pipelines import encoded, encoder, vectors
from ray import serve
from ray.cluster_utils import Cluster
from serve_app import Autoscaled, Server, classifier

from ray_zerocopy import ActorWrapper

pytestmark = pytest.mark.faults

X = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A cluster that goes on when programs end, and its first node."""
    options = {"num_cpus": 4, "object_store_memory": 300 << 20, "include_dashboard": True, "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "dashboard_agent_listen_port": 0})
    yield cluster.head_node
    cluster.shutdown()


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def connected(head: Any, port: int) -> Iterator[None]:
    """This program is connected to the cluster, in which Serve runs."""
    ray.init(head.address, namespace="serve", logging_level="ERROR", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield
    ray.shutdown()


def run(*arguments: str) -> None:
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr


def answer(port: int, route: str) -> dict[str, Any] | None:
    """What a replica answers over HTTP; None: nothing yet."""
    try:
        data = json.dumps(X.tolist()).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{route}", data, timeout=10) as response:
            answered: dict[str, Any] = json.load(response)
            return answered
    except (urllib.error.URLError, OSError):
        return None


def pids(port: int, route: str, seen: set[int]) -> set[int]:
    """`seen`, and the replica that answers now, if one does; what it answers must be right."""
    answered = answer(port, route)
    if answered is not None:
        with torch.no_grad():
            assert torch.allclose(torch.tensor(answered["result"]), classifier()(X), atol=1e-5)
        seen.add(answered["pid"])
    return seen


PROGRAM = """
import sys, ray
from ray import serve
from serve_app import build
address, port = sys.argv[1:]
ray.init(address)
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
serve.run(build({"model": "by a program"}), name="program", route_prefix="/program")
"""


def test_applications_deployed_by_config_and_by_a_program_that_ended_go_on_when_all_their_replicas_are_killed(
    head: Any, port: int, tmp_path: Path
) -> None:
    application = {"name": "config", "route_prefix": "/config", "import_path": "serve_app:build"}
    http = {"http_options": {"host": "127.0.0.1", "port": port}, "proxy_location": "HeadOnly"}
    config = tmp_path / "config.yaml"  # JSON is YAML
    config.write_text(json.dumps({**http, "applications": [{**application, "args": {"model": "by config"}}]}))
    run("-m", "ray.serve.scripts", "deploy", str(config), "--address", f"http://{head.webui_url}")
    run("-c", PROGRAM, head.address, str(port))
    killed: dict[str, set[int]] = {"config": set(), "program": set()}
    for route, replicas in killed.items():
        assert until(lambda route=route, replicas=replicas: len(pids(port, route, replicas)) == 2, 60)
    for pid in set.union(*killed.values()):
        os.kill(pid, signal.SIGKILL)
    for route, replicas in killed.items():
        assert until(lambda route=route, replicas=replicas: bool(pids(port, route, set()) - replicas), 60)


@pytest.mark.usefixtures("connected")
def test_redeployments_leave_the_store_flat() -> None:
    before = store_in_use()
    model = classifier(width=2048)  # 17 MB
    one = Server.options(num_replicas=1)
    for number in range(3):
        with torch.no_grad():
            model.out.bias.fill_(number)
        wrapper = ActorWrapper(model, name="redeployed", lifetime="detached", replace=True)
        serve.run(one.bind(wrapper), name="redeployed", route_prefix="/redeployed")
    assert until(lambda: store_in_use() - before < 1.2 * 2048 * 2048 * 4)
    serve.delete("redeployed")
    wrapper.free()
    assert until(lambda: store_in_use() - before < 1 << 20)


def running_replicas(application: str) -> int:
    (deployment,) = serve.status().applications[application].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


@pytest.mark.usefixtures("connected")
def test_replicas_that_are_added_under_load_share_the_weights_of_the_first(tmp_path: Path) -> None:
    model = encoder(layers=4)
    released = tmp_path / "released"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as replicas have, so that sums have one order
    expected = {n: encoded(model, vectors(n)) for n in range(12)}
    torch.set_num_threads(threads)
    with ActorWrapper(model, name="autoscaled", lifetime="detached"):
        application = Autoscaled.bind(str(released), "autoscaled", "serve")
        handle = serve.run(application, name="autoscaled", route_prefix=None)
        assert running_replicas("autoscaled") == 1
        answers = [handle.remote(vectors(n)) for n in range(12)]
        assert until(lambda: running_replicas("autoscaled") == 3, 120)
        released.touch()
        seen = [answer.result(timeout_s=60) for answer in answers]
        handle.shutdown()  # whose thread would go on, and start a Ray of its own after this one
        serve.delete("autoscaled")
    assert {n: each.result for n, each in enumerate(seen)} == expected
    assert len({each.process for each in seen}) == 3
    assert len({each.file for each in seen}) == 1
    assert all(each.grown < 0.1 * weight_bytes(model) for each in seen), [each.grown for each in seen]
