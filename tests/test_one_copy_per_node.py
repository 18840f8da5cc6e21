"""BERT-base (438 MB) in several actors: one copy of the weights a node, and what each worker and the driver pay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from bert import bert, output, token_ids, warm_up_bert
from memory import bits, own_bytes, tensors_of, weight_bytes
from pipelines import Worker
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_zerocopy import ActorWrapper

STORE = 600 << 20  # room for one copy of the weights and not for two


def same_weights(model: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors_of(model), tensors_of(other), strict=True))


def add_one(model: Any) -> None:
    with torch.no_grad():
        for tensor in tensors_of(model):
            tensor.add_(1)


@pytest.fixture(scope="module")
def store_with_room_for_one() -> Iterator[None]:
    ray.init("local", num_cpus=4, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model() -> Any:
    return bert()


@pytest.mark.usefixtures("store_with_room_for_one")
def test_four_actors_and_the_driver_pay_almost_nothing_and_compute_the_same(model: Any) -> None:
    weights = weight_bytes(model)
    assert weights > 430e6
    ray.get(ray.put(b"x" * 1_000_000))
    before = own_bytes()
    wrapper = ActorWrapper(model)
    assert own_bytes() - before < 0.02 * weights

    workers = [Worker.remote(warm_up_bert) for _ in range(4)]
    ray.get([worker.load.remote(wrapper) for worker in workers])
    ids = token_ids()
    torch.set_num_threads(1)  # as in the workers: the order of sums must be the same
    assert set(ray.get([worker.do.remote(output, ids) for worker in workers])) == {output(model, ids)}
    for grown in ray.get([worker.grown.remote() for worker in workers]):
        assert grown < 0.03 * weights


@pytest.mark.usefixtures("store_with_room_for_one")
def test_a_write_to_every_weight_in_one_actor_is_not_seen_in_another_a_later_one_or_the_driver(model: Any) -> None:
    wrapper = ActorWrapper(model)
    original = {name: bits(tensor) for name, tensor in model.state_dict().items()}
    ids = token_ids(1)
    torch.set_num_threads(1)
    expected = output(model, ids)

    writer, reader = Worker.remote(), Worker.remote()
    ray.get([worker.load.remote(wrapper) for worker in (writer, reader)])
    writing = writer.do.remote(add_one)
    while_writing = ray.get([reader.do.remote(output, ids) for _ in range(5)])
    ray.get(writing)
    assert set(while_writing) == {expected}
    assert ray.get(writer.do.remote(output, ids)) != expected
    assert ray.get(reader.do.remote(output, ids)) == expected
    later = Worker.remote()
    ray.get(later.load.remote(wrapper))
    assert ray.get(later.do.remote(output, ids)) == expected
    assert {name: bits(tensor) for name, tensor in model.state_dict().items()} == original


def test_a_model_wrapped_on_one_node_is_one_copy_on_another(model: Any) -> None:
    ray.shutdown()
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, object_store_memory=STORE, include_dashboard=False)
        ray.init(cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        wrapper = ActorWrapper(model)
        weights = weight_bytes(model)
        here = ray.get_runtime_context().get_node_id()
        (elsewhere,) = {node["NodeID"] for node in ray.nodes()} - {here}
        there = NodeAffinitySchedulingStrategy(elsewhere, soft=False)
        workers = [Worker.options(scheduling_strategy=there).remote(warm_up_bert) for _ in range(2)]
        ray.get([worker.load.remote(wrapper) for worker in workers])
        ids = token_ids()
        torch.set_num_threads(1)
        assert set(ray.get([worker.do.remote(output, ids) for worker in workers])) == {output(model, ids)}
        for grown in ray.get([worker.grown.remote() for worker in workers]):
            assert grown < 0.03 * weights
        one, other = (ray.get(worker.do.remote(file_behind_weights)) for worker in workers)
        assert one == other  # one file, and the same bytes of it: one copy in that node's store
        assert one != file_behind_weights(wrapper.load())
    finally:
        ray.shutdown()
        cluster.shutdown()


def file_behind_weights(model: Any) -> tuple[str, int, int]:
    """The device, inode and offset in the file that a model's first parameter is mapped from."""
    address = next(model.parameters()).data_ptr()
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, offset, device, inode = line.split()[:5]
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                return device, int(inode), int(offset, 16) + address - low
    raise AssertionError("mapped nowhere")
