"""From outside the cluster, through Ray Client (`ray://`): everything is right, if not shared with the driver."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from memory import bits
from object_store import until
from pipelines import Classifier, Worker
from ray.cluster_utils import Cluster

from ray_zerocopy import ActorWrapper, TaskWrapper, waiting

pytestmark = pytest.mark.faults


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def client() -> Iterator[None]:
    """A driver outside of a cluster with one CPU."""
    ray.shutdown()
    port = free_port()
    arguments = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments | {"ray_client_server_port": port})
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.delenv("RAY_ADDRESS", raising=False)
            assert until(lambda: is_listening(port))
            ray.init(f"ray://127.0.0.1:{port}", log_to_driver=False)
            yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def all_bits(loaded: Any) -> list[bytes]:
    return [bits(parameter) for parameter in loaded.parameters()]


@pytest.mark.usefixtures("client")
def test_an_actor_loads_what_a_client_wrapped() -> None:
    model = Classifier(width=512)
    worker = Worker.remote()
    ray.get(worker.load.remote(ActorWrapper(model)))
    assert ray.get(worker.do.remote(all_bits)) == all_bits(model)
    ray.kill(worker)


@pytest.mark.usefixtures("client")
def test_a_client_calls_a_task_wrapper_with_values_and_with_references() -> None:
    model, x = Classifier().eval(), torch.randn(3, 16)
    wrapper = TaskWrapper(model, method_names=("describe",))
    torch.testing.assert_close(wrapper(x), model(x))
    torch.testing.assert_close(wrapper.describe(ray.put(x), scale=2.0), model.describe(x, scale=2.0))


@pytest.mark.usefixtures("client")
def test_a_client_is_told_that_no_cpu_is_free(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_WORD_SECONDS", 1.0)
    model, x = Classifier().eval(), torch.randn(3, 16)
    wrapper = TaskWrapper(model)
    holder = Worker.options(num_cpus=1).remote()
    ray.get(holder.pid.remote())
    results: list[torch.Tensor] = []
    with caplog.at_level(logging.WARNING, "ray_zerocopy"):
        calling = threading.Thread(target=lambda: results.append(wrapper(x)))
        calling.start()
        assert until(lambda: any("no node has one free" in message for message in caplog.messages))
        ray.kill(holder)
        calling.join(timeout=60)
    torch.testing.assert_close(results[0], model(x))
