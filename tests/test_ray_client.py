"""From outside the cluster, through Ray Client (`ray://`): everything is right, if not shared with the driver."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from memory import bits
from object_store import until
from pipelines import Classifier, TwoModels, Worker
from ray.cluster_utils import Cluster

from ray_zerocopy import ActorWrapper, TaskWrapper
from ray_zerocopy.tasks import waiting

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
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RAY_ADDRESS", raising=False)
        # Ray's server forks a server for each client while its own gRPC threads run. The child dies now and then in
        # gRPC's fork handlers ("Check failed: next_worker->state == KICKED"), which it does not need: it calls exec.
        environment.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
        environment.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "90")  # for a machine that does much else
        cluster = Cluster(initialize_head=True, head_node_args=arguments | {"ray_client_server_port": port})
        try:
            assert until(lambda: is_listening(port)), server_logs(cluster)
            try:
                ray.init(f"ray://127.0.0.1:{port}", log_to_driver=False)
            except Exception as error:
                error.add_note(server_logs(cluster))
                raise
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


def server_logs(cluster: Cluster) -> str:
    """The last lines of what Ray's servers for clients have logged."""
    logs = sorted(Path(cluster.head_node.get_logs_dir_path()).glob("ray_client_server*.err"))
    return "\n".join(f"{log.name}:\n" + "\n".join(log.read_text().splitlines()[-30:]) for log in logs)


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
def test_a_client_runs_a_whole_pipeline_in_tasks() -> None:
    pipeline, x = TwoModels(), torch.randn(3, 16)
    pipeline.encoder.eval()
    wrapper = TaskWrapper(pipeline)
    torch.testing.assert_close(ray.get(wrapper.remote(ray.put(x))), pipeline(x))
    torch.testing.assert_close(list(wrapper.options(max_retries=0).map([x, x])), [pipeline(x)] * 2)


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
