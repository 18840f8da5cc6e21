"""Models of common kinds are taken for fresh after their calls, and so are not loaded anew for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import programs
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from ray_zerocopy.image import freeze, thaw_in_view
from ray_zerocopy.tasks.freshness import FreshState, ThawedProgram

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

IMAGE = torch.rand(1, 3, 8, 8)
SEQUENCE = torch.rand(2, 3, 4)


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(), nn.Linear(4, 2)).eval()


def recurrent() -> nn.Module:
    return nn.LSTM(4, 4, num_layers=2, bidirectional=True).eval()


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval()


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {"a": nn.Linear(4, 4), "b": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))}
        )
        self.scales = nn.ParameterDict({"a": nn.Parameter(torch.ones(4))})

    def forward(self, x: torch.Tensor) -> Any:
        return [branch(x) * self.scales["a"] for branch in self.branches.values()]


MODELS: dict[str, tuple[Callable[[], Any], torch.Tensor]] = {
    "convolutional": (convolutional, IMAGE),
    "scripted": (lambda: torch.jit.script(convolutional()), IMAGE),
    "traced": (lambda: torch.jit.trace(convolutional(), IMAGE), IMAGE),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(convolutional())), IMAGE),
    "scripted in a module": (lambda: nn.Sequential(torch.jit.script(convolutional())), IMAGE),
    "exported": (lambda: programs.exported(programs.stack()), programs.inputs()),
    "recurrent": (recurrent, SEQUENCE),
    "encoder": (encoder, SEQUENCE),
    "branches": (Branches, SEQUENCE),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_a_common_kind_is_fresh_after_a_call(name: str) -> None:
    make, example = MODELS[name]
    thawed = thaw_in_view(freeze(make()))
    if isinstance(thawed.root, ExportedProgram):
        thawed = ThawedProgram(thawed.root.module(), thawed.view)
    state = FreshState(thawed)
    del thawed
    state.seal()
    assert state.obstacle is None
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.no_grad):
        with mode():
            state.model(example)
        assert state.restore()
