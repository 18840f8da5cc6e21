"""Models of 340 to 440 MB in several actors: one copy a node, and what each worker and the driver pay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from bert import bert, output, token_ids, warm_up_bert
from memory import bits, file_behind_weights, own_bytes, weight_bytes
from pipelines import Worker, add_one, encoded, encoder, vectors, warm_up_encoder
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_zerocopy import ActorWrapper


@pytest.fixture(scope="module")
def processes(cluster: None) -> list[Any]:
    return [Worker.remote(warm_up_bert) for _ in range(4)]


@pytest.fixture
def workers(processes: list[Any]) -> Iterator[list[Any]]:
    """Four workers that hold nothing."""
    yield processes
    ray.get([worker.drop.remote() for worker in processes])


def test_four_actors_and_the_driver_pay_almost_nothing_for_bert_and_compute_the_same(workers: list[Any]) -> None:
    model = bert()
    weights = weight_bytes(model)
    assert weights > 430e6
    assert 2 * weights > ray.cluster_resources()["object_store_memory"]  # it has room for one copy and not for two
    ray.get(ray.put(b"x" * 1_000_000))
    before = own_bytes()
    wrapper = ActorWrapper(model)
    assert own_bytes() - before < 0.02 * weights

    had_grown = ray.get([worker.grown.remote() for worker in workers])
    ray.get([worker.load.remote(wrapper) for worker in workers])
    ids = token_ids()
    torch.set_num_threads(1)  # as in the workers: the order of sums must be the same
    assert set(ray.get([worker.do.remote(output, ids) for worker in workers])) == {output(model, ids)}
    for before, grown in zip(had_grown, ray.get([worker.grown.remote() for worker in workers]), strict=True):
        assert grown - before < 0.03 * weights


def test_a_write_to_every_weight_in_one_actor_is_not_seen_in_another_a_later_one_or_the_driver(
    workers: list[Any],
) -> None:
    model = encoder()
    wrapper = ActorWrapper(model)
    original = {name: bits(tensor) for name, tensor in model.state_dict().items()}
    x = vectors()
    torch.set_num_threads(1)  # as in the workers: the order of sums must be the same
    expected = encoded(model, x)

    writer, reader, later, _ = workers
    ray.get([worker.load.remote(wrapper) for worker in (writer, reader)])
    writing = writer.do.remote(add_one)
    while_writing = ray.get([reader.do.remote(encoded, x) for _ in range(5)])
    ray.get(writing)
    assert set(while_writing) == {expected}
    assert ray.get(writer.do.remote(encoded, x)) != expected
    assert ray.get(reader.do.remote(encoded, x)) == expected
    ray.get(later.load.remote(wrapper))
    assert ray.get(later.do.remote(encoded, x)) == expected
    assert {name: bits(tensor) for name, tensor in model.state_dict().items()} == original


@pytest.mark.faults
def test_a_model_wrapped_on_one_node_is_one_copy_on_another() -> None:
    model = encoder()
    nodes = Cluster()
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1, object_store_memory=600 << 20, include_dashboard=False)
        ray.init(nodes.address, log_to_driver=False)
        nodes.wait_for_nodes()
        wrapper = ActorWrapper(model)
        weights = weight_bytes(model)
        here = ray.get_runtime_context().get_node_id()
        (elsewhere,) = {node["NodeID"] for node in ray.nodes()} - {here}
        there = NodeAffinitySchedulingStrategy(elsewhere, soft=False)
        workers = [Worker.options(scheduling_strategy=there).remote(warm_up_encoder) for _ in range(2)]
        ray.get([worker.load.remote(wrapper) for worker in workers])
        x = vectors()
        torch.set_num_threads(1)
        assert set(ray.get([worker.do.remote(encoded, x) for worker in workers])) == {encoded(model, x)}
        for grown in ray.get([worker.grown.remote() for worker in workers]):
            assert grown < 0.03 * weights
        one, other = (ray.get(worker.do.remote(file_behind_weights)) for worker in workers)
        assert one == other  # one file, and the same bytes of it: one copy in that node's store
        assert one != file_behind_weights(wrapper.load())
    finally:
        ray.shutdown()
        nodes.shutdown()
