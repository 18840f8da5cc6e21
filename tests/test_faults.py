"""What happens to one worker, or to one node, nobody else notices."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from memory import bits
from object_store import until
from pipelines import Classifier, Worker, add_one
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper

pytestmark = pytest.mark.faults


def weights() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4))).eval().requires_grad_(False)  # 17 MB


def all_bits(model: nn.Module) -> list[bytes]:
    return [bits(parameter) for parameter in model.parameters()]


def load_for_ever(_: Any, started: Path, wrapper: Any) -> None:
    while True:
        wrapper.load()
        started.touch()


def compute_for_ever(model: nn.Module, started: Path, _: Any) -> None:
    while True:
        model(torch.ones(256, 1024))
        started.touch()


def write_for_ever(model: nn.Module, started: Path, _: Any) -> None:
    while True:
        add_one(model)
        started.touch()


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize("busy", [load_for_ever, compute_for_ever, write_for_ever])
def test_nobody_notices_that_a_worker_is_killed_and_nothing_stays_pinned(busy: Any, tmp_path: Path) -> None:
    model = weights()
    wrapper = ActorWrapper(model)
    victim, other = Worker.remote(), Worker.remote()
    ray.get([worker.load.remote(wrapper) for worker in (victim, other)])
    here = wrapper.load()
    pid = ray.get(victim.pid.remote())
    started = tmp_path / "started"
    running = victim.do.remote(busy, started, wrapper)
    assert until(started.exists)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RayActorError):
        ray.get(running, timeout=60)
    expected = all_bits(model)
    assert all_bits(here) == expected
    assert ray.get(other.do.remote(all_bits)) == expected
    later = Worker.remote()
    ray.get(later.load.remote(wrapper))
    assert ray.get(later.do.remote(all_bits)) == expected
    for worker in (other, later):
        ray.kill(worker)


@ray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
class Restarted:
    """Loads as it starts."""

    def __init__(self, wrapper: Any) -> None:
        self.model = wrapper.load()

    def pid(self) -> int:
        return os.getpid()

    def bits(self) -> list[bytes]:
        return all_bits(self.model)


@pytest.mark.usefixtures("empty_store")
def test_an_actor_that_is_restarted_loads_again() -> None:
    model = weights()
    wrapper = ActorWrapper(model)  # Ray keeps what the wrapper refers to for a restart only as long as the wrapper
    actor = Restarted.remote(wrapper)
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    assert ray.get(actor.bits.remote(), timeout=60) == all_bits(model)
    assert ray.get(actor.pid.remote()) != pid
    ray.kill(actor)


class KillsItsWorker(nn.Module):
    """In the first call of all."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = mark
        self.layers = weights()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.layers[0].weight.add_(1)
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(x)


@pytest.mark.usefixtures("cluster")
def test_a_task_whose_worker_is_killed_in_a_call_gives_the_right_answer(tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    x = torch.randn(1, 1024)
    result = TaskWrapper(KillsItsWorker(mark))(x)
    assert mark.exists()
    torch.testing.assert_close(result, KillsItsWorker(mark)(x))


def is_dead(actor: Any) -> bool:
    try:
        ray.get(actor.pid.remote(), timeout=30)
    except RayActorError:
        return True
    return False


def test_a_node_that_is_added_loads_and_one_that_is_removed_takes_only_its_own_workers() -> None:
    store = {"object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    try:
        ray.init(nodes.address, log_to_driver=False)
        model = weights()
        expected = all_bits(model)
        wrapper = ActorWrapper(model)
        here = Worker.remote()
        ray.get(here.load.remote(wrapper))
        added = nodes.add_node(num_cpus=1, **store)
        there = Worker.options(scheduling_strategy=NodeAffinitySchedulingStrategy(added.node_id, soft=False)).remote()
        ray.get(there.load.remote(wrapper), timeout=60)
        assert ray.get(there.do.remote(all_bits)) == expected
        nodes.remove_node(added, allow_graceful=False)
        assert until(lambda: is_dead(there))
        assert ray.get(here.do.remote(all_bits), timeout=60) == expected
        assert all_bits(wrapper.load()) == expected
        x = torch.randn(1, 16)
        classifier = Classifier().eval()
        assert torch.equal(TaskWrapper(classifier)(x), classifier(x))
    finally:
        ray.shutdown()
        nodes.shutdown()
