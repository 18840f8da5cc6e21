"""What is given by mistake is refused at once, with what to do."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.data
import torch
from pipelines import Classifier, TwoModels
from ray import cloudpickle
from torch import nn

from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper
from ray_zerocopy.actor import prepare_model_for_actors

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]

WRAPPERS = [TaskWrapper, JITTaskWrapper, ActorWrapper, JITActorWrapper]


class Exports(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def describe(self, x: torch.Tensor) -> torch.Tensor:
        return x


def function(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_class_is_refused_with_the_advice_to_make_an_instance(wrapper: Any) -> None:
    with pytest.raises(TypeError, match=r"got the class TwoModels\. .*TwoModels\(\.\.\.\)"):
        wrapper(TwoModels)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("path", ["model.pt", Path("model.pt")], ids=repr)
def test_a_path_is_refused_with_the_advice_to_load_the_model(wrapper: Any, path: Any) -> None:
    with pytest.raises(TypeError, match=r"got .*model\.pt.* load the model and give what was loaded"):
        wrapper(path)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("pipeline", [function, {"no": "model"}, 3, None], ids=lambda obj: type(obj).__name__)
def test_a_pipeline_without_a_model_is_refused(wrapper: Any, pipeline: Any) -> None:
    with pytest.raises(TypeError, match=r"^Expected .*somewhere in the pipeline .*found no"):
        wrapper(pipeline)


def test_a_function_with_a_model_in_it_is_a_pipeline() -> None:
    model = Classifier().eval()
    assert TaskWrapper(lambda x: model(x) * 0)(torch.ones(1, 16)).tolist() == [[0] * 4]


def test_actors_may_share_tensors_and_arrays_without_a_model() -> None:
    assert ActorWrapper({"index": [np.arange(3)]}).load()["index"][0].tolist() == [0, 1, 2]
    assert ActorWrapper(torch.arange(3)).load().tolist() == [0, 1, 2]


def test_a_method_that_no_model_has_is_named_with_those_close_to_it() -> None:
    with pytest.raises(AttributeError, match=r"names 'descirbe', which no model .*Classifier.*they have 'describe'"):
        TaskWrapper(TwoModels(), method_names=("__call__", "descirbe"))
    with pytest.raises(AttributeError, match=r"names 'zzz', which no model .*Classifier.*they have 'describe'"):
        TaskWrapper(Classifier(), method_names=["zzz"])
    with pytest.raises(AttributeError, match="they have 'describe'"):
        JITTaskWrapper(torch.jit.script(Exports()), method_names=["descirbe"])


@pytest.mark.parametrize("names", ["encoder", b"encoder", 3, [3]], ids=repr)
def test_names_that_are_no_sequence_of_names_are_refused(names: Any) -> None:
    with pytest.raises(TypeError, match="Expected a sequence of method names"):
        TaskWrapper(TwoModels(), method_names=names)
    for wrapper in (ActorWrapper, JITActorWrapper):
        pipeline: Any = TwoModels()
        pipeline.encoder = torch.jit.script(pipeline.encoder)
        with pytest.raises(TypeError, match=r"Expected a sequence of attribute names, such as \('encoder',\)"):
            wrapper(pipeline, model_attr_names=names)


def test_names_may_come_from_an_iterator() -> None:
    wrapper: Any = TaskWrapper(TwoModels(), method_names=iter(["describe"]))  # type: ignore[arg-type]
    assert wrapper.head.describe(torch.ones(1, 16)).shape == (1, 16)
    actor = ActorWrapper(TwoModels(), model_attr_names=iter(["head"]))  # type: ignore[arg-type]
    assert set(actor.constructor_kwargs["model_refs"]) == {"head"}


LOAD = r"`self\.pipeline = wrapper\.load\(\)` in __init__"


def test_an_actor_wrapper_that_is_used_as_the_pipeline_says_to_load_it() -> None:
    wrapper = ActorWrapper(Classifier())
    with pytest.raises(TypeError, match=LOAD):
        wrapper(torch.ones(1, 16))
    with pytest.raises(AttributeError, match=rf"no attribute 'describe'\. .*{LOAD}"):
        wrapper.describe  # noqa: B018
    assert not hasattr(wrapper, "__len__")
    assert not isinstance(wrapper, collections.abc.Iterable)
    assert cloudpickle.loads(cloudpickle.dumps(wrapper)).load().labels == ["a", "b", "c", "d"]


def test_an_actor_wrapper_given_to_map_batches_says_to_load_it() -> None:
    wrapper = ActorWrapper(Classifier())
    with pytest.raises(ray.exceptions.RayTaskError, match=LOAD):
        ray.data.range(2).map_batches(wrapper).materialize()
    with pytest.raises(ValueError, match=r"load\(\), called in an actor, gives the pipeline"):
        ray.data.range(2).map_batches(wrapper, compute=ray.data.ActorPoolStrategy(size=1))


def test_load_of_a_task_wrapper_names_the_actor_wrapper() -> None:
    with pytest.raises(AttributeError, match="ActorWrapper"):
        TaskWrapper(TwoModels()).load()

    class Loads(TwoModels):
        def load(self) -> str:
            return "its own"

    assert TaskWrapper(Loads()).load() == "its own"


def test_a_container_may_be_prepared_for_actors_and_a_path_may_not() -> None:
    with pytest.warns(DeprecationWarning, match="ActorWrapper"):
        prepare_model_for_actors(nn.ModuleList([Classifier()]))
    with (
        pytest.warns(DeprecationWarning, match="ActorWrapper"),
        pytest.raises(TypeError, match=r"Expected a torch\.nn\.Module, got a str"),
    ):
        prepare_model_for_actors("model.pt")
