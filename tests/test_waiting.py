"""A `TaskWrapper` never waits for ever: actors' calls need no CPU, and a wait for one is reported."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from object_store import until
from pipelines import Classifier, Worker

from ray_zerocopy import TaskWrapper
from ray_zerocopy.tasks import waiting

pytestmark = pytest.mark.faults

_CPUS = 2


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    ray.init("local", num_cpus=_CPUS, object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_WORD_SECONDS", 1.0)


def called(wrapper: Any, x: torch.Tensor) -> torch.Tensor:
    return wrapper(x)


def all_cpus_held() -> list[Any]:
    actors = [Worker.options(num_cpus=1).remote() for _ in range(_CPUS)]
    ray.get([actor.pid.remote() for actor in actors])
    return actors


def end(actors: list[Any]) -> None:
    for actor in actors:
        ray.kill(actor)
    assert until(lambda: ray.available_resources().get("CPU") == _CPUS)


@pytest.fixture
def actors(two_cpus: None) -> Iterator[list[Any]]:
    """As many as there are CPUs, each of which holds one."""
    assert until(lambda: ray.available_resources().get("CPU") == _CPUS)
    actors = all_cpus_held()
    yield actors
    end(actors)


class Predict:
    """For `map_batches`."""

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"data": batch["data"], "scores": self.wrapper(torch.tensor(batch["data"])).detach().numpy()}


def test_an_actor_that_holds_the_last_cpu_calls_a_wrapper(actors: list[Any]) -> None:
    model, x = Classifier().eval(), torch.randn(3, 16)
    wrapper = TaskWrapper(model)
    assert torch.equal(ray.get(actors[0].do.remote(lambda _: called(wrapper, x)), timeout=60), model(x))


def test_map_batches_with_as_many_actors_as_cpus_calls_a_wrapper(two_cpus: None) -> None:
    model, x = Classifier().eval(), torch.randn(32, 16)
    rows = ray.data.from_numpy(list(x.numpy().reshape(16, 2, 16)))  # in blocks, so that both actors have some
    scores = rows.map_batches(
        Predict, fn_constructor_args=(TaskWrapper(model),), batch_size=2, num_cpus=1, concurrency=_CPUS
    )
    found = scores.take_all()
    assert len(found) == len(x)
    for row in found:  # in any order
        torch.testing.assert_close(torch.tensor(row["scores"]), model(torch.tensor(row["data"])))


@pytest.mark.usefixtures("soon")
def test_a_driver_is_told_that_actors_hold_all_cpus_and_goes_on_when_one_ends(
    actors: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    model, x = Classifier().eval(), torch.randn(3, 16)
    wrapper, results = TaskWrapper(model), []
    with caplog.at_level(logging.WARNING, "ray_zerocopy"):
        calling = threading.Thread(target=lambda: results.append(wrapper(x)))
        calling.start()
        assert until(lambda: len(caplog.messages) == 2), "it says so again"
        ray.kill(actors.pop())
        calling.join(timeout=60)
    assert torch.equal(results[0], model(x))
    assert "no node has one free (the cluster has 2 CPUs, 0 of them free)" in caplog.messages[0]


class Slow(torch.nn.Module):
    def forward(self, seconds: float) -> str:
        threading.Event().wait(seconds)
        return "done"


class TimesOut(torch.nn.Module):
    def forward(self) -> None:
        raise ray.exceptions.GetTimeoutError("the model's own")


@pytest.mark.usefixtures("soon", "two_cpus")
def test_a_call_that_takes_long_while_a_cpu_is_free_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ray_zerocopy"):
        assert TaskWrapper(Slow())(2.5) == "done"
    assert not caplog.messages


@pytest.mark.usefixtures("two_cpus")
def test_a_models_own_timeout_error_reaches_the_caller() -> None:
    with pytest.raises(ray.exceptions.GetTimeoutError, match="the model's own"):
        TaskWrapper(TimesOut())()


@pytest.mark.usefixtures("soon")
def test_where_no_node_has_a_cpu_a_call_fails_and_says_so() -> None:
    ray.shutdown()
    ray.init("local", num_cpus=0, object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(RuntimeError, match="needs one CPU, and no node of the cluster has any"):
            TaskWrapper(Classifier())(torch.randn(3, 16))
    finally:
        ray.shutdown()
