"""What torch.compile made, inside a pipeline: compiled anew where it is loaded, or refused, never lost."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import ray
import torch
from memory import bits
from pipelines import Classifier, Worker

from ray_zerocopy import ActorWrapper
from ray_zerocopy.image import freeze, thaw

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
REFUSED = "compiled by torch.compile.*call torch.compile .* on the loaded pipeline in the worker"


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


tripled = torch.compiler.disable(doubled)


class Pipeline:
    def __init__(self) -> None:
        self.model = Classifier().eval()
        self.stages: list[Any] = []


def test_a_model_whose_forward_is_compiled_is_refused_by_its_path() -> None:
    pipeline = Pipeline()
    pipeline.model.forward = torch.compile(pipeline.model.forward, backend="eager")
    with pytest.raises(TypeError, match=r"^pipeline\.model\.forward cannot be pickled: .*" + REFUSED):
        freeze(pipeline)


def test_a_compiled_function_is_refused_by_its_path() -> None:
    pipeline = Pipeline()
    pipeline.stages.append({"f": torch.compile(doubled, backend="eager")})
    with pytest.raises(TypeError, match=r"^pipeline\.stages\[0\]\['f'\] cannot be pickled: .*" + REFUSED):
        freeze(pipeline)


def test_a_module_that_compiled_itself_is_refused_by_its_path() -> None:
    pipeline = Pipeline()
    pipeline.model.hidden.compile(backend="eager")
    with pytest.raises(TypeError, match=r"^pipeline\.model\.hidden.* cannot be pickled: .*" + REFUSED):
        freeze(pipeline)


@pytest.mark.usefixtures("cluster")
def test_a_compiled_module_is_compiled_anew_in_the_worker_and_keeps_its_hooks() -> None:
    model = Classifier().eval()
    compiled = torch.compile(model, backend="eager")
    compiled.register_forward_hook(lambda _, args, output: output + 1)
    worker = Worker.remote()
    ray.get(worker.load.remote(ActorWrapper({"model": compiled})))

    def run(pipeline: Any) -> tuple[bytes, int]:
        from torch._dynamo.utils import counters

        with torch.no_grad():
            return bits(pipeline["model"](X)), counters["frames"]["ok"]

    result, compiled_frames = ray.get(worker.do.remote(run))
    with torch.no_grad():
        assert result == bits(model(X) + 1)
    assert compiled_frames > 0


def test_functions_that_only_keep_the_compiler_away_go_along() -> None:
    inner = 2.0
    kept_out = torch.compiler.disable(lambda x: x * inner)
    assert torch.equal(thaw(freeze({"f": kept_out, "importable": tripled}))["f"](X), X * 2)


def test_freezing_does_not_import_the_compiler() -> None:
    program = "import sys, pipelines; from ray_zerocopy.image import freeze; freeze(pipelines.TwoModels()); "
    program += "print('torch._dynamo' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
