"""A node goes, and with it the actor that keeps named models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from keeper_actor import ask_keeper, failure, keeper
from memory import bits
from object_store import until
from pipelines import Classifier
from ray.cluster_utils import Cluster

from ray_zerocopy import ActorWrapper, ModelLostError, get_wrapper, list_models, save

pytestmark = pytest.mark.faults


@pytest.fixture
def cluster_of_two() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


@ray.remote(num_cpus=0, resources={"second": 1})
def wrap_there(path: str) -> ActorWrapper[Classifier] | None:
    """The wrapper of a model; "model from file" is kept, too, by then.

    None where Ray started the keeper on the other node, as it may: then there is none any more.
    """
    wrapper = ActorWrapper(classifier(), name="model", lifetime="detached")
    ActorWrapper.from_file(path, name="model from file", lifetime="detached")
    here = ray.get_runtime_context().get_node_id()
    if ask_keeper(lambda _: __import__("ray").get_runtime_context().get_node_id()) == here:
        return wrapper
    ray.kill(keeper())
    until(lambda: failure(keeper)[0] == "ValueError")
    return None


def test_the_keeper_starts_again_on_another_node_with_what_came_from_files_and_says_what_is_lost(
    cluster_of_two: Cluster, tmp_path: Path
) -> None:
    path = str(tmp_path / "model.safetensors")
    save(classifier(), path)
    node = cluster_of_two.add_node(num_cpus=0, resources={"second": 1}, object_store_memory=100 << 20)
    cluster_of_two.wait_for_nodes()
    x = torch.randn(3, 16)
    with torch.no_grad():
        expected = bits(classifier()(x))
        wrapper = next(filter(None, (ray.get(wrap_there.remote(path)) for _ in range(20))))
        loaded = wrapper.load()
        assert bits(loaded(x)) == expected
        cluster_of_two.remove_node(node)
        # The node's processes go after it: until then the keeper may still answer.
        assert until(lambda: "was lost, most likely with its node" in failure(wrapper.load)[1]), failure(wrapper.load)
        with pytest.raises(ModelLostError, match="Wrap the model again under this name"):
            wrapper.load()
        assert [model.name for model in list_models()] == ["model from file"]
        assert bits(get_wrapper("model from file").load()(x)) == expected
        assert bits(loaded(x)) == expected
        ActorWrapper(classifier(), name="model", lifetime="detached")
        assert bits(wrapper.load()(x)) == bits(get_wrapper("model").load()(x)) == expected
