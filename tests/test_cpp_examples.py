"""examples/cpp, built and run as a user does it, on images of a TorchScript model and of a compiled program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from programs import exported, stack
from torch import nn

from ray_zerocopy import CompiledProgram, save

ROOT = Path(__file__).parent.parent

# The compiler takes a minute for libtorch's headers, on a busy machine several.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def run(*command: object) -> str:
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    return finished.stdout


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("build")
    run("cmake", "-G", "Ninja", "-S", ROOT / "examples/cpp", "-B", build)
    run("cmake", "--build", build)
    return build / "serve"


def served(serve: Path, file: Path, *shape: int) -> list[tuple[int, float]]:
    """Of each process the private memory in KiB and the sum of the outputs' magnitudes."""
    lines = run(serve, 4, file, "float", *shape).splitlines()
    assert len(lines) == 4
    return [(int(line.split(", ")[1].split()[0]), float(line.split()[-1])) for line in lines]


def test_four_processes_serve_a_torchscript_model_from_one_copy(serve: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(6))).eval()
    ones = torch.ones(3, 2048)
    with torch.inference_mode():
        traced = torch.jit.trace(model, ones)
        expected = traced(ones).double().abs().sum().item()
    save(traced, tmp_path / "image")
    for private, magnitude in served(serve, tmp_path / "image", 3, 2048):
        assert private < 10_000  # of 100,000
        assert magnitude == pytest.approx(expected, rel=1e-5)
    torch.jit.save(traced, str(tmp_path / "model.pt"))
    for private, magnitude in served(serve, tmp_path / "model.pt", 3, 2048):
        assert private > 90_000
        assert magnitude == pytest.approx(expected, rel=1e-5)


def test_four_processes_serve_a_compiled_program_from_one_copy(serve: Path, tmp_path: Path) -> None:
    program = CompiledProgram.compile(exported(stack(512, 6), 512))  # 50 MB
    save(program, tmp_path / "image")
    expected = program(torch.ones(4, 512)).double().abs().sum().item()
    for private, magnitude in served(serve, tmp_path / "image", 4, 512):
        assert private < 10_000
        assert magnitude == pytest.approx(expected, rel=1e-5)
