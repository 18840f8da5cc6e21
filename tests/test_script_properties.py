"""Scripted modules with properties: frozen, loaded, and used as after `torch.jit.load`."""

from __future__ import annotations

import io

import pytest
import torch
from memory import bits
from torch import nn

from ray_zerocopy.image import freeze, thaw

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.factor = 2.0

    @property
    def scale(self) -> float:
        return self.factor

    @scale.setter
    def scale(self, value: float) -> None:
        self.factor = value

    @property
    def weight(self) -> torch.Tensor:
        return self.linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight * self.scale

    @torch.jit.export
    def twice(self) -> float:
        self.scale = self.scale * 2
        return self.scale


def scripted() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    return torch.jit.script(Scaled().eval())


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    stream.seek(0)
    return torch.jit.load(stream)


def test_a_module_with_properties_computes_and_sets_them_as_after_torch_jit_load() -> None:
    loaded, thawed = saved_and_loaded(scripted()), thaw(freeze(scripted()))
    assert bits(thawed(X)) == bits(loaded(X)) == bits(scripted()(X))
    assert thawed.twice() == loaded.twice() == 4.0
    assert bits(thawed(X)) == bits(loaded(X)) != bits(scripted()(X))
    assert hasattr(thawed, "scale") == hasattr(loaded, "scale")


def test_it_is_frozen_with_what_python_set_beside_its_properties() -> None:
    module = scripted()
    module.labels = ["a", "b"]
    module.forward(X)
    thawed = thaw(freeze({"inner": [module]}))["inner"][0]
    assert thawed.labels == ["a", "b"]
    assert bits(thaw(freeze(thawed))(X)) == bits(module(X))


def test_nothing_of_the_original_is_changed() -> None:
    module = scripted()
    before = dict(vars(module))
    freeze(module)
    assert vars(module) == before
