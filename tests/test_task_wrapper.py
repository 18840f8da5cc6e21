"""`TaskWrapper`: the pipeline's code runs here, its models run as Ray tasks."""

from __future__ import annotations

import copy
import os
import threading
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits
from pipelines import Classifier, TwoModels
from torch import nn

from ray_zerocopy import TaskWrapper

pytestmark = pytest.mark.usefixtures("cluster")


class WhoRuns(nn.Module):
    """Tells the process it runs in, and counts its calls in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.calls = 0
        self.register_buffer("seen", torch.zeros(1))

    def forward(self) -> tuple[int, int, float]:
        self.calls += 1
        self.seen += 1
        with torch.no_grad():
            self.weight.add_(1)
        return os.getpid(), self.calls, float(self.weight[0])

    def pid(self) -> int:
        return os.getpid()


class EmbeddingError(Exception):
    """An error of the user's own."""


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise EmbeddingError("no room")


def test_a_pipeline_with_two_models_gives_equal_results_by_its_call_and_its_own_methods() -> None:
    pipeline = TwoModels()
    wrapper = TaskWrapper(pipeline)
    pipeline.encoder.eval()
    x = torch.randn(3, 16)
    assert bits(wrapper(x)) == bits(pipeline(x))
    assert torch.equal(wrapper.confident(x), pipeline.confident(x))


def test_attributes_are_the_pipelines_own() -> None:
    wrapper = TaskWrapper(TwoModels())
    wrapper.threshold = 2.0
    assert not wrapper.confident(torch.randn(3, 16)).any()
    assert wrapper.calls == 1
    assert "confident" in dir(wrapper)
    del wrapper.threshold
    with pytest.raises(AttributeError, match="threshold"):
        _ = wrapper.threshold
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = wrapper.no_such_thing


def test_models_run_in_other_processes_and_the_pipeline_in_this_one() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.model = WhoRuns()

        def __call__(self) -> tuple[int, int]:
            return os.getpid(), self.model()[0]

    here, there = TaskWrapper(Pipeline())()
    assert here == os.getpid()
    assert there != os.getpid()


def test_every_call_is_as_if_the_model_were_fresh() -> None:
    wrapper = TaskWrapper(WhoRuns())
    for _ in range(6):
        _, calls, weight = wrapper()
        assert (calls, weight) == (1, 1.0)


def test_models_are_found_in_attributes_containers_nested_objects_and_closures() -> None:
    class Inner:
        def __init__(self) -> None:
            self.model = WhoRuns()

    class Pipeline:
        def __init__(self) -> None:
            self.attribute = WhoRuns()
            self.containers = {"a": [WhoRuns(), (WhoRuns(),)]}
            self.nested = Inner()
            hidden = WhoRuns()
            self.closure = lambda: hidden()

        def __call__(self) -> list[int]:
            models = [self.attribute, self.containers["a"][0], self.containers["a"][1][0], self.nested.model]
            return [model()[0] for model in models] + [self.closure()[0]]

    assert os.getpid() not in TaskWrapper(Pipeline())()


def test_a_model_is_a_pipeline_too() -> None:
    model = Classifier().eval()
    x = torch.randn(2, 16)
    assert bits(TaskWrapper(model)(x)) == bits(model(x))


def test_named_methods_run_remotely_and_one_that_a_model_lacks_is_passed_over() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.who = WhoRuns()
            self.classifier = Classifier().eval()

    wrapper = TaskWrapper(Pipeline(), method_names=("pid", "describe"))
    assert wrapper.who.pid() != os.getpid()
    assert wrapper.who()[0] != os.getpid()  # __call__ is always remote
    x = torch.randn(2, 16)
    assert bits(wrapper.classifier.describe(x, scale=2.0)) == bits(wrapper.classifier.hidden(x) * 2)
    assert not hasattr(wrapper.classifier, "pid")


def test_method_names_that_are_no_names_are_refused() -> None:
    with pytest.raises(TypeError, match=r"sequence of method names.*'forward'"):
        TaskWrapper(Classifier(), method_names="forward")


def test_other_attributes_of_a_model_are_answered_in_the_caller() -> None:
    wrapper = TaskWrapper(TwoModels())
    assert wrapper.head.labels == ["a", "b", "c", "d"]
    assert wrapper.head.hidden.in_features == 16
    assert wrapper.head.eval() is wrapper.head
    assert not isinstance(wrapper.head, nn.Module)


def test_an_exception_arrives_as_its_own_type_with_the_remote_traceback() -> None:
    with pytest.raises(EmbeddingError, match="no room") as caught:
        TaskWrapper(Fails())(torch.zeros(1))
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    assert "in forward" in str(caught.value)


def test_it_works_inside_tasks_and_actors() -> None:
    pipeline = TwoModels()
    wrapper = TaskWrapper(pipeline)
    x = torch.randn(2, 16)
    pipeline.encoder.eval()
    expected = pipeline(x)

    @ray.remote
    def task(inner: Any) -> torch.Tensor:
        return inner(x)

    @ray.remote
    class Actor:
        def run(self, inner: Any) -> torch.Tensor:
            return inner.confident(x)

    assert bits(ray.get(task.remote(wrapper))) == bits(expected)
    actor = Actor.remote()
    assert torch.equal(ray.get(actor.run.remote(wrapper)), pipeline.confident(x))


def test_the_wrapped_object_is_not_changed() -> None:
    pipeline = TwoModels()
    pipeline.encoder.train()
    before = copy.deepcopy(pipeline.__dict__)
    wrapper = TaskWrapper(pipeline)
    wrapper(torch.randn(2, 16))
    assert pipeline.encoder.training
    assert isinstance(pipeline.head, Classifier)
    assert pipeline.calls == before["calls"] == 0
    assert set(pipeline.__dict__) == set(before)


def test_references_among_the_arguments_are_resolved_as_in_any_task() -> None:
    model = Classifier().eval()
    x = torch.randn(2, 16)
    wrapper = TaskWrapper(model, method_names=("describe",))
    assert bits(wrapper(ray.put(x))) == bits(model(x))
    assert bits(wrapper.describe(ray.put(x), scale=ray.put(3.0))) == bits(model.describe(x, scale=3.0))


class Echo(nn.Module):
    """Gives back what it was given, and what kinds of tensors that were."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0))

    def forward(self, *values: Any, **named: Any) -> Any:
        return values, named

    def own(self, how: Any = None) -> Any:
        weight = self.weight.detach()
        return {"weight": weight, "view": weight[1:3], "copy": self.weight + 1, "asked": getattr(how, "degrees", None)}


def test_arguments_and_results_of_every_kind_arrive_as_they_were() -> None:
    wrapped = TaskWrapper(Echo(), method_names=("own",))
    large = torch.arange(100_000, dtype=torch.float32).view(100, 1000)
    values = {
        "transposed": large.t(),
        "part": large[3:5, ::2],
        "bfloat16": large.bfloat16(),
        "bool": large > 5,
        "none": torch.empty(0, 3),
        "number": torch.tensor(3),
        "complex": torch.complex(large, large).conj(),
        "sparse": torch.eye(4).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "parameter": nn.Parameter(torch.ones(2)),
        "array": np.arange(5),
        "text": "x",
    }
    args, named = wrapped(large, *values.values(), **values)
    for before, after in zip((large, *values.values(), *values.values()), (*args, *named.values()), strict=True):
        assert type(after) is type(before)
        if isinstance(before, torch.Tensor):
            assert (after.dtype, after.shape, after.layout) == (before.dtype, before.shape, before.layout)
            assert after.requires_grad == before.requires_grad
            assert torch.equal(after.to_dense(), before.to_dense()) if before.is_sparse else after.equal(before)
    named["part"].add_(1)  # results can be written to
    assert wrapped(x=large)[1]["x"].equal(large)


SMALL = torch.arange(24, dtype=torch.float32).view(4, 6)


@pytest.mark.parametrize(
    "value",
    [
        SMALL,
        SMALL.t(),
        SMALL[1:3, ::2],
        SMALL.bfloat16(),
        SMALL.to(torch.float8_e5m2),
        SMALL > 5,
        torch.empty(0, 3),
        torch.tensor(3),
        torch.complex(SMALL, SMALL),
        torch.complex(SMALL, SMALL).conj(),
        torch.complex(SMALL, SMALL).conj().imag,
        SMALL.to(torch.uint16),
        torch.eye(4).to_sparse(),
        nn.Parameter(SMALL),
        SMALL.clone().requires_grad_(),
        torch.tensor([1.5], dtype=torch.float64),
    ],
    ids=lambda tensor: f"{tensor.dtype}, {tuple(tensor.shape)}, {tensor.layout}",
)
def test_a_small_tensor_arrives_as_it_was_and_independent(value: torch.Tensor) -> None:
    ((after,), _) = TaskWrapper(Echo())(value)
    form = ("dtype", "shape", "layout", "requires_grad")
    assert type(after) is type(value)
    assert [getattr(after, name) for name in form] == [getattr(value, name) for name in form]
    assert bits(after.to_dense().clone()) == bits(value.to_dense())  # numpy's view of a tensor keeps it from resizing
    if after.layout is torch.strided:
        assert after.stride() == value.stride()
        after.detach().zero_()  # and can be written to
        if not after.requires_grad:
            assert after.resize_(100).numel() == 100


def test_small_tensors_that_share_memory_share_it_when_they_arrive() -> None:
    base = torch.zeros(8)
    ((first, second), _) = TaskWrapper(Echo())(base, base[2:4])
    second.fill_(1)
    assert first.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_the_callers_default_device_is_not_where_results_arrive() -> None:
    wrapped = TaskWrapper(Echo())
    large = torch.arange(100_000)
    with torch.device("meta"):
        ((small_again, large_again), _) = wrapped(SMALL, large)
    assert small_again.equal(SMALL)
    assert large_again.equal(large)


class Celsius:
    """It has no state that pickle could find."""

    __slots__ = ("degrees",)

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __reduce__(self) -> Any:
        raise TypeError("only by a serializer")


def test_what_ray_must_pickle_itself_is_left_to_ray() -> None:
    wrapped = TaskWrapper(Echo(), method_names=("own",))
    assert ray.get(wrapped([ray.put(5)])[0][0][0]) == 5
    ray.util.register_serializer(Celsius, serializer=lambda c: c.degrees, deserializer=Celsius)
    try:
        assert wrapped.own(Celsius(21.5))["asked"] == 21.5
    finally:
        ray.util.deregister_serializer(Celsius)

    class OnlyHere:
        answer = 42

    assert wrapped(OnlyHere())[0][0].answer == 42
    assert wrapped(lambda x: x + 1)[0][0](1) == 2


def test_tied_results_and_such_that_lie_in_the_weights_arrive_tied_and_independent() -> None:
    wrapped = TaskWrapper(Echo(), method_names=("own",))
    for _ in range(2):
        result = wrapped.own()
        assert result["weight"].equal(torch.arange(4.0))
        assert result["copy"].equal(torch.arange(4.0) + 1)
        result["view"].fill_(-1)
        assert result["weight"].tolist() == [0, -1, -1, 3]


def test_what_cannot_be_sent_is_an_error_at_the_call() -> None:
    wrapped = TaskWrapper(Echo())
    with pytest.raises(TypeError, match="lock"):
        wrapped(threading.Lock())
    assert wrapped(1) == ((1,), {})


def test_the_callers_grad_mode_and_autocast_go_with_the_call() -> None:
    class Force(nn.Module):
        """An energy model: its output is a gradient that it takes itself."""

        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.detach().requires_grad_()
            return torch.autograd.grad(torch.tanh(self.energy(x)).sum(), x)[0]

    model = Force().eval()
    x = torch.randn(2, 4)
    assert bits(TaskWrapper(model)(x)) == bits(model(x))
    classifier = Classifier().eval()
    wrapper = TaskWrapper(classifier)
    y = torch.randn(2, 16)
    with torch.no_grad():
        assert not wrapper(y).requires_grad
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert wrapper(y).dtype is torch.bfloat16
            assert bits(wrapper(y)) == bits(classifier(y))


def test_a_pipelines_own_object_references_go_along() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.model = Classifier().eval()
            self.index = ray.put({"a": 1})

        def look_up(self) -> Any:
            return ray.get(self.index)

    assert TaskWrapper(Pipeline()).look_up() == {"a": 1}
