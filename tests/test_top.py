"""`python -m ray_zerocopy top` on several nodes, and on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray
from object_store import until
from pipelines import Worker
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from seen import BYTES, large

from ray_zerocopy import ActorWrapper
from ray_zerocopy.monitoring.cluster import cluster_memory

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=200 << 20, include_dashboard=False)
        ray.init(cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_each_process_is_shown_once_at_its_node_and_a_dead_node_not_at_all(nodes: Cluster) -> None:
    wrapper = ActorWrapper(large())
    expected = {}
    workers = []
    for node in ray.nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        workers += [Worker.options(scheduling_strategy=there).remote() for _ in range(2)]
        ray.get([worker.load.remote(wrapper) for worker in workers[-2:]])
        expected[node["NodeID"]] = set(ray.get([worker.pid.remote() for worker in workers[-2:]]))
    loaded = wrapper.load()  # the driver is a process of the cluster as well
    expected[ray.get_runtime_context().get_node_id()].add(os.getpid())
    seen = cluster_memory().nodes
    assert {node.node: {model.process for model in node.models} for node in seen} == expected
    for node in seen:
        assert node.one_copy_bytes == pytest.approx(BYTES, rel=0.01)
        assert node.cost_without_bytes == len(expected[node.node]) * BYTES
    del loaded

    here = ray.get_runtime_context().get_node_id()
    (other,) = (node for node in nodes.list_all_nodes() if node.node_id != here)
    nodes.remove_node(other)
    assert until(lambda: [node.node for node in cluster_memory().nodes] == [here])


def test_on_a_terminal_the_view_is_refreshed_until_it_is_interrupted(nodes: Cluster) -> None:
    ours, theirs = pty.openpty()
    program = [sys.executable, "-m", "ray_zerocopy", "--address", nodes.address, "top", "--interval", "0.1"]
    running = subprocess.Popen(program, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    shown = b""
    while shown.count(b"\x1b[H\x1b[J") < 3:
        shown += os.read(ours, 4096)
    assert b"every 0.1 s; Ctrl-C ends" in shown
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    os.close(ours)
    assert (running.returncode, errors) == (0, b"")
