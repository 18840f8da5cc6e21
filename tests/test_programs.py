"""What follows TorchScript: exported programs, and AOTInductor packages, shared like any model."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from memory import bits, private_bytes
from pipelines import Worker
from programs import DEPTH, WIDTH, exported, inputs, stack

from ray_zerocopy import ActorWrapper, CompiledProgram, TaskWrapper
from ray_zerocopy.image import freeze, thaw

pytestmark = pytest.mark.usefixtures("cluster")


class Pipeline:
    """The pipeline's code is the same whoever runs the program."""

    def __init__(self, program: Any) -> None:
        self.program = program

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.program.module()(x)


def without_compiler() -> None:
    os.environ["PATH"] = "/nonexistent"
    for _ in range(2):
        torch.randn(4, WIDTH) @ torch.randn(WIDTH, WIDTH)


@pytest.fixture(scope="module")
def processes(cluster: None) -> list[Any]:
    return [Worker.remote(without_compiler) for _ in range(3)]


@pytest.fixture
def workers(processes: list[Any]) -> Iterator[list[Any]]:
    """Three workers that can compile nothing and hold nothing."""
    yield processes
    ray.get([worker.drop.remote() for worker in processes])


def test_an_exported_program_keeps_bits_ties_state_and_dynamic_shapes() -> None:
    model = stack()
    program = exported(copy.deepcopy(model))
    image = freeze(program)
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert weights <= image.nbytes <= weights + inputs().nbytes
    one, other = thaw(image), thaw(image)
    for x in (inputs(), inputs()[:3], inputs()):  # each call adds to a buffer
        assert bits(one.module()(x)) == bits(model(x))
    assert bits(other.module()(inputs())) == bits(stack()(inputs()))
    assert one.state_dict["tied"].data_ptr() == one.state_dict["blocks.0.up.weight"].data_ptr()
    assert one.graph_signature == program.graph_signature


def test_an_exported_program_runs_in_tasks_and_actors() -> None:
    expected = bits(stack()(inputs()))
    pipeline = Pipeline(exported(stack()))
    wrapper = TaskWrapper(pipeline)
    assert [bits(wrapper(inputs())) for _ in range(3)] == [expected] * 3
    worker = Worker.remote()
    ray.get(worker.load.remote(ActorWrapper(pipeline)))
    assert bits(ray.get(worker.do.remote(lambda p: p(inputs())))) == expected


@pytest.mark.faults  # compiling the program takes long
def test_a_compiled_program_runs_in_tasks_and_actors(compiled: CompiledProgram, workers: list[Any]) -> None:
    x = inputs(WIDTH)
    expected = stack(WIDTH, DEPTH)(x)
    wrapper = TaskWrapper(compiled)
    for _ in range(3):  # the program adds to a buffer; no call sees another's
        assert torch.allclose(wrapper(x), expected, atol=1e-4)
    worker = workers[0]
    ray.get(worker.load.remote(ActorWrapper(compiled)))
    first, second = (ray.get(worker.do.remote(lambda p: p(x))) for _ in range(2))
    assert torch.allclose(first, expected, atol=1e-4)
    assert torch.allclose(second, expected + 1, atol=1e-4)  # a loaded one keeps its state


@pytest.mark.faults  # compiling the program takes long
def test_a_compiled_program_checks_the_structure_of_its_arguments(compiled: CompiledProgram) -> None:
    x = inputs(WIDTH)
    with pytest.raises(TypeError, match="exported for inputs of the structure"):
        compiled(x, x)
    with pytest.raises(TypeError, match="keyword arguments"):
        compiled(x=x)
    package = compiled.__reduce__()[1][0]
    with pytest.raises(ValueError, match="constants that were not given"):
        CompiledProgram(package, {})


@pytest.mark.faults  # compiling the program takes long
def test_a_model_loaded_by_torch_alone_is_refused_with_what_to_do(compiled: CompiledProgram, tmp_path: Any) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(compiled.__reduce__()[1][0])
    loaded = torch._inductor.aoti_load_package(str(path))
    with pytest.raises(TypeError, match=r"^pipeline\['compiled'\] cannot be pickled: .*CompiledProgram.compile"):
        freeze({"compiled": loaded})


@pytest.mark.faults  # compiling the program takes long
def test_a_compiled_program_of_100_mb_costs_three_actors_almost_nothing(
    compiled: CompiledProgram, workers: list[Any]
) -> None:
    weights = DEPTH * 32 * WIDTH**2
    expected = stack(WIDTH, DEPTH)(inputs(WIDTH))
    wrapper = ActorWrapper(compiled)
    had_grown = ray.get([worker.grown.remote() for worker in workers])
    ray.get([worker.load.remote(wrapper) for worker in workers])
    for worker in workers:
        assert torch.allclose(ray.get(worker.do.remote(lambda p: p(inputs(WIDTH)))), expected, atol=1e-4)
        assert "torch._inductor.codecache" not in ray.get(worker.do.remote(lambda _: list(sys.modules)))
    for before, grown in zip(had_grown, ray.get([worker.grown.remote() for worker in workers]), strict=True):
        assert grown - before < 0.05 * weights


@pytest.mark.faults  # compiling the program takes long
def test_dropping_a_compiled_program_lets_go_of_its_weights(compiled: CompiledProgram, workers: list[Any]) -> None:
    def windows(_: Any) -> int:
        private_bytes()  # collects garbage
        with open("/proc/self/maps") as maps:
            return sum("rw-p" in line and "plasma" in line for line in maps)

    worker = workers[0]
    assert ray.get(worker.do.remote(windows)) == 0
    ray.get(worker.load.remote(ActorWrapper(compiled)))
    assert ray.get(worker.do.remote(windows)) == 1
    ray.get(worker.drop.remote())
    assert ray.get(worker.do.remote(windows)) == 0
