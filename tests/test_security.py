"""What SECURITY.md promises of a worker that has loaded a model, whoever wrote the model."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from memory import tensors_of
from pipelines import Worker
from torch import nn

from ray_zerocopy import ActorWrapper


def mapping_of(address: int) -> tuple[str, tuple[int, int, int]]:
    """The permissions of the mapping that holds an address, and its file: device and inode."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, permissions, _, device, inode = line.split()[:5]
        begin, end = (int(number, 16) for number in place.split("-"))
        if begin <= address < end:
            major, minor = (int(number, 16) for number in device.split(":"))
            return permissions, (major, minor, int(inode))
    raise AssertionError(f"nothing is mapped at {address:#x}")


def descriptors(*_: Any) -> set[int]:
    """Those that this process has open."""
    return {int(entry) for entry in os.listdir("/proc/self/fd")}


def found_in(model: Any, earlier: set[int]) -> tuple[set[str], set[int]]:
    """The permissions of the mappings that weights lie in, and the access modes of later descriptors of their files."""
    found = [mapping_of(tensor.data_ptr()) for tensor in tensors_of(model)]
    files = {file for _, file in found}
    assert all(inode for _, _, inode in files)
    modes = set()
    for descriptor in descriptors() - earlier:
        try:
            status = os.fstat(descriptor)
        except OSError:  # closed since
            continue
        if (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino) in files:
            modes.add(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
    return {permissions for permissions, _ in found}, modes


def test_a_workers_weights_lie_in_private_mappings_and_its_descriptors_of_the_store_are_read_only(
    cluster: None,
) -> None:
    worker = Worker.remote()
    earlier = ray.get(worker.do.remote(descriptors, np.zeros(1 << 20)))  # with that of Ray, if it keeps one
    ray.get(worker.load.remote(ActorWrapper(nn.Linear(1024, 1024))))
    permissions, modes = ray.get(worker.do.remote(found_in, earlier))
    assert permissions == {"rw-p"}
    assert modes == {os.O_RDONLY}


def test_what_a_models_own_code_writes_as_it_is_loaded_stays_in_its_worker(cluster: None) -> None:
    wrapper = ActorWrapper(Spoiling(torch.ones(1 << 20)))
    workers = [Worker.remote() for _ in range(2)]
    ray.get([worker.load.remote(wrapper) for worker in workers])
    sums = ray.get([worker.do.remote(Spoiling.total) for worker in workers])
    assert sums == [2 << 20, 2 << 20]  # each began with the ones that were published


class Spoiling(nn.Module):
    """Adds one to its weights whenever it is loaded."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.weights.add_(1)

    def total(self) -> int:
        return int(self.weights.sum())
