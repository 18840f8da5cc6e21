"""`call_model`: each call runs the model that it was given, and leaves nothing of it to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from torch import nn

from ray_zerocopy import call_model, extract_tensors, jit

pytestmark = [
    pytest.mark.usefixtures("one_worker"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def one_worker() -> Iterator[None]:
    """A Ray whose calls all meet in one worker."""
    ray.init("local", num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Adds(nn.Module):
    """It has no weights."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


class Remembers(nn.Module):
    """It changes its weights and itself in many ways; what it returns tells whether anything was left over."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(torch.zeros(300_000))
        self.register_buffer("seen", torch.zeros(2, 3))
        self.tied = self.weight
        self.history: list[int] = []

    def forward(self) -> tuple[Any, ...]:
        state = (self.name, float(self.weight[0]), tuple(self.seen.shape), float(self.seen.sum()), len(self.history))
        state += (hasattr(self.seen, "note"), self.weight.requires_grad, self.tied is self.weight, self.weight.grad)
        with torch.no_grad():
            self.weight.add_(1)
            self.seen.add_(1)
        self.seen.t_()
        self.seen.note = "seen"
        self.weight.sum().backward()
        self.weight.requires_grad_(False)
        self.history.append(1)
        self.weight.data = torch.ones(3)
        return state

    def its_name(self) -> str:
        return self.name

    def weights(self) -> torch.Tensor:
        return self.weight.detach()


X = torch.zeros(2)


def test_models_without_weights_are_not_taken_for_one_another() -> None:
    refs = [ray.put(extract_tensors(Adds(number))) for number in (1, 10)]
    results = [ray.get(call_model.remote(ref, args=(X,))).tolist() for ref in (*refs, *refs)]
    assert results == [[1, 1], [10, 10]] * 2


def test_scripted_modules_without_weights_are_not_taken_for_one_another() -> None:
    for extract in (jit.extract_tensors, jit.extract_tensors_minimal):
        refs = [ray.put(extract(torch.jit.script(Adds(number)))) for number in (1, 10)]
        results = [ray.get(jit.call_model.remote(ref, args=(X,))).tolist() for ref in (*refs, *refs)]
        assert results == [[1, 1], [10, 10]] * 2


def test_models_over_one_set_of_weights_are_not_taken_for_one_another() -> None:
    skeleton, tensors = extract_tensors(Remembers("one"))
    other, _ = extract_tensors(Remembers("other"))
    both = ray.put((skeleton, other, tensors))

    @ray.remote
    def split(value: Any) -> list[str]:
        one, other, tensors = value
        function = call_model._function  # what a worker runs
        return [function((model, tensors), method_name="its_name") for model in (one, other)]

    assert ray.get(split.remote(both)) == ["one", "other"]


def test_every_call_is_as_if_it_had_a_fresh_model() -> None:
    ref = ray.put(extract_tensors(Remembers("fresh")))
    results = [ray.get(call_model.remote(ref)) for _ in range(4)]
    assert results == [("fresh", 0.0, (2, 3), 0.0, 0, False, True, True, None)] * 4


def test_a_result_that_lies_in_the_weights_is_the_callers_own() -> None:
    ref = ray.put(extract_tensors(Remembers("result")))
    for _ in range(2):
        weights = ray.get(call_model.remote(ref, method_name="weights"))
        assert not weights.any()
        ray.get(call_model.remote(ref))
        assert not weights.any()
