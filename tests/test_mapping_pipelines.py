"""`wrapper.map` and `wrapper.map_unordered`: a task for each input, only so many of them ahead of who asks."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits
from object_store import store_is_empty, until
from ray.exceptions import TaskCancelledError
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper
from ray_zerocopy.transport import progress

pytestmark = pytest.mark.usefixtures("cluster")


class Pipeline:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(16, 4).eval()
        self.scale = 1.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) * self.scale

    def even(self, number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number

    def stop_at_two(self, number: int) -> int:
        return next(iter([])) if number == 2 else number

    def large(self, number: int) -> np.ndarray[Any, Any]:
        return np.full(1 << 20, number)

    def wait_for(self, path: Path) -> str:
        path.with_suffix(".started").touch()
        while not path.exists():
            time.sleep(0.02)
        return path.name

    def batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            return {"x": batch["x"], "y": self(torch.from_numpy(np.array(batch["x"]))).numpy()}


class Inputs:
    """Numbers without an end, and how many of them were asked for."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.read += 1
            yield 2 * number


@pytest.fixture(scope="module")
def wrapper(cluster: None) -> Any:
    return TaskWrapper(Pipeline())


def test_results_come_in_the_order_of_the_inputs_or_as_they_get_ready(wrapper: Any, tmp_path: Path) -> None:
    inputs = [torch.randn(3, 16, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    expected = [bits(Pipeline()(x)) for x in inputs]
    assert [bits(y) for y in wrapper.map(iter(inputs))] == expected
    assert sorted(bits(y) for y in wrapper.map_unordered(inputs)) == sorted(expected)
    first, second = tmp_path / "1", tmp_path / "2"
    second.touch()
    unordered = wrapper.options(num_cpus=0).wait_for.map_unordered([first, second])
    assert next(unordered) == "2"
    first.touch()
    assert list(unordered) == ["1"]
    assert list(wrapper.wait_for.map([first, second])) == ["1", "2"]
    assert list(wrapper.map([])) == []


@pytest.mark.parametrize("method", ["map", "map_unordered"])
def test_inputs_may_have_no_end_and_are_read_as_results_are_asked_for(wrapper: Any, method: str) -> None:
    inputs = Inputs()
    results = getattr(wrapper.even, method)(inputs, max_in_flight=3)
    assert inputs.read == 0
    found = {next(results) for _ in range(5)}
    assert inputs.read == 7
    assert found <= {2 * n for n in range(7)}
    results.close()
    assert list(results) == []
    assert inputs.read == 7


def test_an_exception_is_raised_in_its_place_and_the_next_result_after_it(wrapper: Any) -> None:
    results = wrapper.even.map([0, 1, 2, threading.Lock(), 4])
    assert next(results) == 0
    with pytest.raises(ValueError, match="1 is odd"):
        next(results)
    assert next(results) == 2
    with pytest.raises(TypeError, match="lock"):
        next(results)
    assert list(results) == [4]
    unordered = wrapper.even.map_unordered([1])
    with pytest.raises(ValueError, match="1 is odd"):
        next(unordered)
    assert list(unordered) == []


@pytest.mark.parametrize("method", ["map", "map_unordered"])
def test_an_exception_of_the_inputs_comes_after_the_results_of_those_before(wrapper: Any, method: str) -> None:
    def inputs() -> Iterator[int]:
        yield 0
        yield 2
        raise OSError("no more")

    results = getattr(wrapper.even, method)(inputs())
    assert {next(results), next(results)} == {0, 2}
    with pytest.raises(OSError, match="no more"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("method", ["map", "map_unordered"])
def test_a_stop_iteration_does_not_end_the_results_unnoticed(wrapper: Any, method: str) -> None:
    results = getattr(wrapper.stop_at_two, method)(range(4), max_in_flight=1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        next(results)
    assert list(results) == [3]


def test_bad_arguments_are_an_error_at_once(wrapper: Any) -> None:
    for number in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="max_in_flight"):
            wrapper.map([], max_in_flight=number)
    with pytest.raises(TypeError, match="not iterable"):
        wrapper.map(5)
    with pytest.raises(ValueError, match=r"num_returns=2 is for \.remote\(\)"):
        wrapper.options(num_returns=2).map([])


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize("method", ["map", "map_unordered"])
def test_who_stops_early_leaves_nothing_behind(tmp_path: Path, method: str) -> None:
    wrapper = TaskWrapper(Pipeline())
    for index, _ in enumerate(getattr(wrapper.large, method)(itertools.count(), max_in_flight=4)):
        if index == 2:
            break
    del _
    assert until(store_is_empty)
    (tmp_path / "done").touch()
    results = getattr(wrapper.wait_for, method)([tmp_path / name for name in ("done", "never", "neither")])
    with contextlib.closing(results):
        assert next(results) == "done"
        assert until(lambda: all((tmp_path / f"{name}.started").exists() for name in ("never", "neither")))
        tasks = list(results._in_flight)
    assert len(tasks) == 2
    for task in tasks:
        with pytest.raises(TaskCancelledError):
            ray.get(task)


def test_the_pipeline_is_that_of_the_time_of_the_map(wrapper: Any) -> None:
    own = TaskWrapper(Pipeline())
    x = torch.ones(1, 16)
    results = own.map([x, x], max_in_flight=1)
    own.scale = 0.0
    assert bits(next(results)) == bits(Pipeline()(x))
    assert not next(own.map([x])).any()
    assert bits(next(results)) == bits(Pipeline()(x))


def test_progress_is_shown(wrapper: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert list(wrapper.even.map([0, 2, 4], progress=True)) == [0, 2, 4]
    assert "even: 100%" in capsys.readouterr().err
    say = progress._counting_messages("even", 20), progress._counting_messages("odd", None)
    with caplog.at_level(logging.INFO, "ray_zerocopy"):
        for _ in range(20):
            say[0]()
            say[1]()
    messages = [record.message for record in caplog.records]
    assert [m for m in messages if "even" in m] == [f"even: {n} of 20" for n in range(2, 21, 2)]
    assert [m for m in messages if "odd" in m] == [f"odd: {n}" for n in (1, 2, 4, 8, 16)]


def test_ray_data_maps_batches_by_a_wrapper_and_by_its_methods(wrapper: Any) -> None:
    data = pytest.importorskip("ray.data")
    x = np.random.default_rng(0).standard_normal((32, 16), dtype=np.float32)
    dataset = data.from_items([{"x": row} for row in x], override_num_blocks=2)
    expected: dict[bytes, bytes] = {}
    for start in range(0, 32, 16):
        batch = Pipeline().batch({"x": x[start : start + 16]})
        expected |= {row.tobytes(): y.tobytes() for row, y in zip(batch["x"], batch["y"], strict=True)}
    batches = TaskWrapper(Batches())
    for function in (batches, batches.options(num_cpus=0), wrapper.batch):
        rows = dataset.map_batches(function, batch_size=16, concurrency=2).take_all()
        assert {row["x"].tobytes(): row["y"].tobytes() for row in rows} == expected
    # An ActorWrapper is nothing that can be called, and says what to write, which does work.
    wrapped = ActorWrapper(Batches())
    with pytest.raises(TypeError) as caught:
        wrapped({})
    assert "write `self.pipeline = wrapper.load()` in __init__" in str(caught.value)
    assert 'ds.map_batches(Worker, fn_constructor_kwargs={"wrapper": wrapper}, concurrency=2)' in str(caught.value)
    rows = dataset.map_batches(Worker, fn_constructor_kwargs={"wrapper": wrapped}, batch_size=16, concurrency=1)
    assert {row["x"].tobytes(): row["y"].tobytes() for row in rows.take_all()} == expected


class Worker:
    def __init__(self, wrapper: Any) -> None:
        self.pipeline = wrapper.load()

    def __call__(self, batch: dict[str, Any]) -> Any:
        return self.pipeline(batch)


class Batches(Pipeline):
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        with torch.no_grad():
            return {"x": batch["x"], "y": self.model(torch.from_numpy(np.array(batch["x"]))).numpy()}
