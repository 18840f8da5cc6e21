"""The examples, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed_by(example: str) -> list[str]:
    """The lines that an example prints."""
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / example)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout.splitlines()


def test_the_four_wrappers_give_the_pipelines_own_results_and_writes_are_private() -> None:
    lines = printed_by("new_api_examples.py")
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [
        "TaskWrapper",
        "ActorWrapper",
        "JITTaskWrapper",
        "JITActorWrapper",
    ]
    assert lines.count("  same results as the pipeline itself: True") == 4
    assert "  the encoder runs in another process: True" in lines
    assert "  one wrote to its weights: results changed: True, the other's: False" in lines


def test_torchscript_in_tasks_is_fresh_at_each_call() -> None:
    answers = [line.rsplit(" ", 1)[-1] for line in printed_by("example_jit.py")]
    assert answers == ["True"] * 6


def test_torchscript_pipelines_in_actors_give_their_own_results() -> None:
    lines = printed_by("jit_actor_example.py")
    assert "  same results as the model itself: True" in lines
    assert "  same results as the pipeline itself: True" in lines
    assert "  noisy images of 3, 1, 4, 1 in, words out: three, one, four, one" in lines


def test_ray_data_recognizes_every_image() -> None:
    lines = printed_by("ray_data_actor_example.py")
    assert lines[0] == "512 of 512 images recognized"
    assert sum(int(line.split()[-2]) for line in lines[1:]) == 512


def test_exported_and_compiled_programs_give_the_eager_models_results() -> None:
    lines = printed_by("export_example.py")
    assert lines.count("  in tasks, same results as the eager model:  True") == 2
    assert lines.count("  in actors, same results as the eager model: True") == 2
