"""Models whose methods give a coroutine or a generator: in task mode an error says what to do; loaded they work."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import ray
import torch
from pipelines import Classifier
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper, call_model, extract_tensors

pytestmark = pytest.mark.usefixtures("cluster")

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


class Asynchronous(Classifier):
    async def forward(self, x: torch.Tensor) -> torch.Tensor:
        await asyncio.sleep(0)
        return super().forward(x)


class Generator(Classifier):
    def forward(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        yield super().forward(x)


class AsynchronousGenerator(Classifier):
    async def forward(self, x: torch.Tensor) -> AsyncIterator[torch.Tensor]:
        yield super().forward(x)

    async def later(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("cls", "kind"),
    [
        (Asynchronous, "coroutine"),
        (Generator, "generator"),
        (AsynchronousGenerator, "async generator"),
    ],
)
def test_a_task_says_that_the_method_gave_no_result_and_what_to_do(cls: type[nn.Module], kind: str) -> None:
    model = cls().eval()
    expected = rf"{cls.__name__}\.forward\(\) gave a {kind} object .* ordinary method .* ActorWrapper"
    with pytest.raises(TypeError, match=expected):
        TaskWrapper(model)(X)
    with pytest.raises(TypeError, match=expected):
        ray.get(call_model.remote(ray.put(extract_tensors(model)), (X,)))


def test_the_method_is_named_and_the_others_of_its_model_work() -> None:
    wrapper = TaskWrapper(AsynchronousGenerator().eval(), method_names=("later", "describe"))
    with pytest.raises(TypeError, match=r"AsynchronousGenerator\.later\(\) gave a coroutine object"):
        wrapper.later(X)
    assert wrapper.describe(X).shape == (3, 16)


async def first(values: Any) -> Any:
    return await anext(values)


def test_loaded_they_are_as_they_were() -> None:
    model = Classifier().eval()
    loaded = [ActorWrapper(cls().eval()).load() for cls in (Asynchronous, Generator, AsynchronousGenerator)]
    for each in loaded:
        each.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [asyncio.run(loaded[0](X)), next(loaded[1](X)), asyncio.run(first(loaded[2](X)))]
    assert all(torch.equal(result, model(X)) for result in results)
