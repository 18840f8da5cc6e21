"""The examples, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed_by(example: str) -> list[str]:
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / example)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout.splitlines()


@pytest.fixture(scope="module")
def started(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[list[str]]]]:
    """The examples of the tests that were selected. They run two at a time: each waits much, and for itself alone."""
    calls = [item.callspec for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(2) as pool:
        yield {call.params["lines"]: pool.submit(printed_by, call.params["lines"]) for call in calls}


@pytest.fixture
def lines(request: pytest.FixtureRequest, started: dict[str, Future[list[str]]]) -> list[str]:
    """The lines that an example prints."""
    return started[request.param].result()


def example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lines", [name], indirect=True)


@pytest.mark.faults  # it compiles
@example("export_example.py")
def test_exported_and_compiled_programs_give_the_eager_models_results(lines: list[str]) -> None:
    assert lines.count("  in tasks, same results as the eager model:  True") == 2
    assert lines.count("  in actors, same results as the eager model: True") == 2


@example("ray_data_actor_example.py")
def test_ray_data_recognizes_every_image(lines: list[str]) -> None:
    assert lines[0] == "512 of 512 images recognized"
    assert sum(int(line.split()[-2]) for line in lines[1:]) == 512


@pytest.mark.faults
@example("jit_actor_example.py")
def test_torchscript_pipelines_in_actors_give_their_own_results(lines: list[str]) -> None:
    assert "  same results as the model itself: True" in lines
    assert "  same results as the pipeline itself: True" in lines
    assert "  noisy images of 3, 1, 4, 1 in, words out: three, one, four, one" in lines


@example("new_api_examples.py")
def test_the_four_wrappers_give_the_pipelines_own_results_and_writes_are_private(lines: list[str]) -> None:
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [
        "TaskWrapper",
        "ActorWrapper",
        "JITTaskWrapper",
        "JITActorWrapper",
    ]
    assert lines.count("  same results as the pipeline itself: True") == 4
    assert "  the encoder runs in another process: True" in lines
    assert "  one wrote to its weights: results changed: True, the other's: False" in lines


@example("example_jit.py")
def test_torchscript_in_tasks_is_fresh_at_each_call(lines: list[str]) -> None:
    answers = [line.rsplit(" ", 1)[-1] for line in lines]
    assert answers == ["True"] * 6


@pytest.mark.ecosystem
@example("text_generation_over_http.py")
def test_text_that_was_learnt_is_generated_over_http(lines: list[str]) -> None:
    assert lines[0] == "POST /complete 'A node keeps'"
    assert lines[-1] == "  as it was learnt: True"


@pytest.mark.ecosystem
@example("embeddings_over_http.py")
def test_a_real_model_embeds_what_belongs_together_close_to_each_other_over_http(lines: list[str]) -> None:
    assert lines[0] == "POST /embed, 3 texts at once: 384 numbers each"
    related, unrelated = (float(line.split()[0]) for line in lines[2:])
    assert related > 0.4 > 0.2 > unrelated
