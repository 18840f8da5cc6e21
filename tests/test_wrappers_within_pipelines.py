"""Wrappers, and the stand-ins in their pipelines, wherever an object may be: in pipelines, arguments and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from memory import bits
from pipelines import Classifier, TwoModels
from torch import nn

from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper

pytestmark = pytest.mark.usefixtures("cluster", "names_end")

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


def stand_in() -> Any:
    pipeline = TwoModels()
    pipeline.head = classifier()
    return TaskWrapper(pipeline).head


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(classifier())


KINDS: dict[str, Callable[[], Any]] = {
    "a stand-in": stand_in,
    "a TaskWrapper": lambda: TaskWrapper(classifier()),
    "a JITTaskWrapper": lambda: JITTaskWrapper(scripted()),
    "an ActorWrapper": lambda: ActorWrapper(classifier()),
    "a JITActorWrapper": lambda: JITActorWrapper(scripted()),
    "a named TaskWrapper": lambda: TaskWrapper(classifier(), name="inner"),
    "a named ActorWrapper": lambda: ActorWrapper(classifier(), name="inner"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def called(inner: Any) -> torch.Tensor:
    return (inner.load() if isinstance(inner, ActorWrapper) else inner)(X)


class Holder(nn.Module):
    """A model that holds something, calls what it is given, and gives what it holds."""

    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.held = held

    def forward(self, given: Any = None) -> torch.Tensor:
        return called(self.held if given is None else given)

    def swap(self, given: Any = None) -> Any:
        return {"held": self.held, "given": [given]}


class Pipeline:
    """Holds something beside a model of its own."""

    def __init__(self, held: Any) -> None:
        self.model = nn.Linear(16, 16)
        self.held = held

    def __call__(self) -> torch.Tensor:
        self.model(X)
        return called(self.held)


@each_kind
def test_it_may_be_beside_a_model_in_the_pipeline_of_another_wrapper(kind: str) -> None:
    expected = bits(classifier()(X))
    pipeline = Pipeline(KINDS[kind]())
    assert bits(TaskWrapper(pipeline)()) == expected
    assert bits(TaskWrapper(pipeline, name="outer")()) == expected
    assert bits(ActorWrapper(pipeline).load()()) == expected


@each_kind
def test_it_may_be_all_that_a_pipeline_holds(kind: str) -> None:
    expected = bits(classifier()(X))
    held = KINDS[kind]()
    assert bits(called(TaskWrapper([held])[0])) == expected
    assert bits(called(TaskWrapper([held], name="outer")[0])) == expected
    assert bits(called(ActorWrapper([held]).load()[0])) == expected


@each_kind
def test_it_may_be_within_a_model(kind: str) -> None:
    expected = bits(classifier()(X))
    model = Holder(KINDS[kind]())
    assert bits(TaskWrapper(model)()) == expected
    assert bits(ActorWrapper(model).load()()) == expected


@each_kind
def test_it_may_be_an_argument_and_a_result_of_a_model(kind: str) -> None:
    expected = bits(classifier()(X))
    inner = KINDS[kind]()
    wrapper = TaskWrapper(Holder(inner), method_names=["swap"])
    assert bits(wrapper(inner)) == expected
    assert bits(wrapper(given=inner)) == expected
    result = wrapper.swap(inner)
    assert bits(called(result["held"])) == bits(called(result["given"][0])) == expected


def test_a_wrapper_and_a_stand_in_may_be_wrapped_themselves() -> None:
    expected = bits(classifier()(X))
    for inner in (TaskWrapper(classifier()), stand_in()):
        assert bits(TaskWrapper(inner)(X)) == expected
        assert bits(ActorWrapper(inner).load()(X)) == expected
