"""When a worker may use a model again: not what the kernel refuses, not before a spare, not past its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from object_store import until
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper
from ray_zerocopy.image import Thawed, freeze, thaw_in_view
from ray_zerocopy.tasks.memory_limit import memory_limit
from ray_zerocopy.tasks.residents import Limits, Resident, Residents
from ray_zerocopy.transport.store import load


class Locked(nn.Module):
    """Writes to its weights, and has the kernel keep their pages where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1 << 18), requires_grad=False)

    def forward(self) -> float:
        self.weight += 1
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlock(ctypes.c_void_p(self.weight.data_ptr()), ctypes.c_size_t(self.weight.nbytes)) != 0:
            raise OSError(ctypes.get_errno(), "mlock")
        return float(self.weight[0])


class Unseen(nn.Module):
    """Its state cannot be seen, and a call changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.state = bytearray(1)

    def forward(self) -> int:
        self.state[0] += 1
        return self.state[0]


def test_weights_whose_pages_the_kernel_does_not_give_back_are_loaded_anew(cluster: None) -> None:
    wrapped = TaskWrapper(Locked())
    assert [wrapped() for _ in range(6)] == [1.0] * 6


def test_a_model_is_not_taken_for_fresh_where_the_kernel_does_not_tell(cluster: None) -> None:
    @ray.remote
    def freshened_without_descriptors(skeleton: Any) -> tuple[bool, bool]:
        resident = Resident(lambda: load(skeleton.image))
        resident.freshen()
        resident.release()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # nothing more can be opened
        try:
            without = resident.freshen()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        resident.release()
        return without, resident.freshen()

    wrapper = ActorWrapper(Locked())
    assert ray.get(freshened_without_descriptors.remote(wrapper.constructor_kwargs["pipeline_skeleton"])) == (
        False,
        True,
    )


def test_a_spare_of_a_model_that_cannot_be_proved_is_loaded_in_a_pause() -> None:
    image = freeze(Unseen())
    loads = 0

    def loader() -> Thawed:
        nonlocal loads
        loads += 1
        return thaw_in_view(image)

    kept = Residents(Limits(models=2, nbytes=1 << 30, idle_seconds=60))
    for call in range(3):
        with kept.fresh("key", loader) as model:
            assert model() == 1
        del model
        expected = call + 2  # the first, and a spare after each
        assert until(lambda expected=expected: loads == expected)
    for _ in range(3):  # without pauses each call loads for itself, at the worst
        with kept.fresh("key", None) as model:
            assert model() == 1


def test_a_model_that_torch_traces_as_it_loads_is_loaded_by_its_calls_alone() -> None:
    # Tracing replaces nn.Module.__call__ for all threads: a call that goes on meanwhile would be traced, too.
    image = freeze({"traced": torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), "seen": Unseen()})
    loaded_by = []

    def loader() -> Thawed:
        loaded_by.append(threading.current_thread())
        return thaw_in_view(image)

    kept = Residents(Limits(models=2, nbytes=1 << 30, idle_seconds=60))
    for _ in range(3):
        with kept.fresh("key", loader) as pipeline:
            assert pipeline["seen"]() == 1
        del pipeline
        time.sleep(0.05)  # in which a spare would be loaded
    assert loaded_by == [threading.current_thread()] * 3


def test_a_model_that_somebody_outside_still_holds_is_loaded_anew() -> None:
    image = freeze(nn.Linear(4, 4))
    kept = Residents(Limits(models=2, nbytes=1 << 30, idle_seconds=60))
    with kept.fresh("key", lambda: thaw_in_view(image)) as model:
        held = model.weight
    del model
    with kept.fresh("key", None) as model:
        assert model.weight is not held


def test_the_memory_limit_is_the_least_of_the_machines_and_the_control_groups(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_limit(tmp_path) == machine
    own = tmp_path / "sys/fs/cgroup/kubepods/pod"
    own.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/kubepods/pod\n")
    (own / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == machine
    (own.parent / "memory.max").write_text(f"{512 << 20}\n")
    assert memory_limit(tmp_path) == 512 << 20
    (own / "memory.max").write_text(f"{256 << 20}\n")
    assert memory_limit(tmp_path) == 256 << 20


def test_the_memory_limit_of_version_1_of_control_groups_holds_too(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n")
    (group / "memory.limit_in_bytes").write_text(f"{128 << 20}\n")  # a container sees its own group at the top
    assert memory_limit(tmp_path) == 128 << 20


@pytest.mark.parametrize("variable", ["MODELS", "BYTES", "IDLE_SECONDS"])
def test_a_limit_that_is_no_number_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"RAY_ZEROCOPY_RESIDENT_{variable}", "many")
    with pytest.raises(ValueError, match=f"RAY_ZEROCOPY_RESIDENT_{variable}, got 'many'"):
        Limits.from_environment()
