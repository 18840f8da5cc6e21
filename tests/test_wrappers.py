"""The four wrappers side by side: basics, several models, devices, consistency, determinism."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import ray
import torch
from memory import bits
from pipelines import Worker
from torch import nn

from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]

X = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))


class Noted(nn.Module):
    """A linear layer with state that a call changes: a buffer and, where Python runs it, an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)
        self.register_buffer("total", torch.zeros(32))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.total += x.sum(0)
        return self.linear(x) + self.total * self.calls


class Pipeline:
    """Three models: an attribute, one in a list, one in a dict within it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        torch.manual_seed(0)
        self.encoder = make()
        self.stages = [make(), {"head": make()}]
        self.scale = 2.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for model in (self.encoder, self.stages[0], self.stages[1]["head"]):
            x = torch.tanh(model(x))
        return x * self.scale

    def where(self) -> int:
        return os.getpid()


def eager() -> nn.Module:
    return Noted().eval()


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(Noted().eval())


MAKERS: dict[str, Callable[[], Any]] = {"eager": eager, "scripted": scripted}
TASKS = [(TaskWrapper, "eager"), (TaskWrapper, "scripted"), (JITTaskWrapper, "scripted")]
ACTORS = [(ActorWrapper, "eager"), (ActorWrapper, "scripted"), (JITActorWrapper, "scripted")]


@pytest.fixture(scope="module")
def worker(cluster: None) -> Any:
    return Worker.remote()


@pytest.mark.parametrize(("wrapper", "kind"), TASKS)
def test_task_wrappers_compute_the_same_at_every_call_as_a_fresh_pipeline(wrapper: Any, kind: str) -> None:
    wrapped = wrapper(Pipeline(MAKERS[kind]))
    expected = bits(Pipeline(MAKERS[kind])(X))
    assert [bits(wrapped(X)) for _ in range(4)] == [expected] * 4


@pytest.mark.parametrize(("wrapper", "kind"), TASKS)
def test_task_wrappers_run_the_pipelines_own_code_here(wrapper: Any, kind: str) -> None:
    wrapped = wrapper(Pipeline(MAKERS[kind]))
    assert wrapped.where() == os.getpid()
    wrapped.scale = 0.0
    assert not wrapped(X).any()


@pytest.mark.parametrize(("wrapper", "kind"), ACTORS)
def test_actor_wrappers_load_pipelines_that_keep_their_own_state(wrapper: Any, kind: str, worker: Any) -> None:
    original = Pipeline(MAKERS[kind])
    ray.get(worker.load.remote(wrapper(original)))
    outputs = [bits(ray.get(worker.do.remote(lambda pipeline: pipeline(X)))) for _ in range(3)]
    assert outputs == [bits(original(X)) for _ in range(3)]
    assert len(set(outputs)) == 3


@pytest.mark.parametrize(("wrapper", "kind"), ACTORS)
def test_actor_wrappers_name_the_models_by_their_paths(wrapper: Any, kind: str) -> None:
    kwargs = wrapper(Pipeline(MAKERS[kind]), device="cpu").constructor_kwargs
    assert set(kwargs["model_refs"]) == {"encoder", "stages[0]", "stages[1]['head']"}
    assert ("use_fast_load" in kwargs) == (wrapper is ActorWrapper)
    assert kwargs["device"] == "cpu"


@pytest.mark.parametrize(("wrapper", "kind"), ACTORS)
@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu"), "cpu:0"])
def test_actor_wrappers_load_onto_the_device_named(wrapper: Any, kind: str, device: Any) -> None:
    loaded = wrapper(Pipeline(MAKERS[kind])).load(device=device)
    assert {p.device.type for p in loaded.encoder.parameters()} == {"cpu"}
    assert bits(loaded(X)) == bits(Pipeline(MAKERS[kind])(X))


@pytest.mark.parametrize("wrapper", [JITTaskWrapper, JITActorWrapper])
@pytest.mark.parametrize("pipeline", [nn.Linear(2, 2), {"models": [nn.Linear(2, 2)]}, {"no": "model"}], ids=str)
def test_jit_wrappers_refuse_pipelines_without_torchscript(wrapper: Any, pipeline: Any) -> None:
    with pytest.raises(TypeError, match=r"^Expected torch\.jit\.ScriptModule"):
        wrapper(pipeline)


@pytest.mark.parametrize(("wrapper", "kind"), [*TASKS, *ACTORS])
def test_wrappers_change_nothing_of_what_they_wrap(wrapper: Any, kind: str) -> None:
    pipeline = Pipeline(MAKERS[kind])
    pipeline.encoder.train()
    wrapper(pipeline)
    assert pipeline.encoder.training
    assert type(pipeline.encoder) is type(MAKERS[kind]())
    assert not pipeline.encoder.total.any()


def test_eager_and_torchscript_agree_through_every_wrapper(worker: Any) -> None:
    outputs = set()
    for wrapper, kind in TASKS:
        outputs.add(bits(wrapper(Pipeline(MAKERS[kind]))(X)))
    for wrapper, kind in ACTORS:
        ray.get(worker.load.remote(wrapper(Pipeline(MAKERS[kind]))))
        outputs.add(bits(ray.get(worker.do.remote(lambda pipeline: pipeline(X)))))
    assert len(outputs) == 1


def test_methods_besides_forward_run_remotely_in_torchscript_too() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        @torch.jit.export
        def twice(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    wrapped = JITTaskWrapper(torch.jit.script(Scaled()), method_names=("forward", "twice"))
    assert torch.equal(wrapped.twice(X), 2 * X)
    assert torch.equal(wrapped.forward(X), X)
    assert not hasattr(wrapped, "absent")
