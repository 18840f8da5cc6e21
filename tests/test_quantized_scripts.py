"""TorchScript modules with quantized operators, whose packed weights exist as tensors only while they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from memory import bits
from pipelines import Classifier
from torch import nn

from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # quantization and TorchScript in this torch
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x[None])[0])[0]


def dynamic(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return torch.ao.quantization.quantize_dynamic(model.eval(), dtype=dtype)


def static() -> nn.Module:
    torch.manual_seed(0)
    model = torch.ao.quantization.QuantWrapper(nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3))).eval()
    model.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(model)
    prepared(X)
    return torch.ao.quantization.convert(prepared)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear in 8 bits": lambda: dynamic(Classifier(), torch.qint8),
    "linear in 16 bits": lambda: dynamic(Classifier(), torch.float16),
    "recurrent in 8 bits": lambda: dynamic(Recurrent(), torch.qint8),
    "a convolution": static,
}

SCRIPTS: dict[str, Callable[[nn.Module], torch.jit.ScriptModule]] = {
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, X),
    "frozen": lambda model: torch.jit.freeze(torch.jit.script(model)),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("model", MODELS)
def test_quantized_scripts_give_the_same_bits_in_all_wrappers(model: str, script: str) -> None:
    module = SCRIPTS[script](MODELS[model]())
    expected = bits(module(X))
    for task_wrapper in (TaskWrapper, JITTaskWrapper):
        assert bits(task_wrapper(module)(X)) == expected
    for actor_wrapper in (ActorWrapper, JITActorWrapper):
        assert bits(actor_wrapper([module]).load()[0](X)) == expected
