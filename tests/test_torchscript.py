"""TorchScript without a copy: any kind of module, one archive, one segment for each weight."""

import copy
import io
from typing import Any, NamedTuple

import pytest
import torch
from memory import bits
from torch import nn

from ray_zerocopy.image import freeze, thaw

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")


class Net(nn.Module):
    """Everything a module can hold: parameters, buffers, plain tensors, containers of them, exported methods, state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.register_buffer("mean", torch.randn(64))
        self.register_buffer("scratch", torch.randn(64), persistent=False)
        self.listed = [torch.randn(64), torch.randn(64)]
        self.named = {"bias": torch.randn(64)}
        self.calls = 0
        self.state = torch.zeros(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.state = self.state + x.sum(0)
        self.mean.add_(1)
        return self.linear(x) + self.mean + self.listed[0] * self.named["bias"] + self.state + self.scratch

    @torch.jit.export
    def count(self) -> int:
        return self.calls


def simple(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).eval()


X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))

MODULES: dict[str, Any] = {
    "traced": lambda: torch.jit.trace(simple(), X),
    "scripted": lambda: torch.jit.script(simple()),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(simple())),
    "frozen and traced": lambda: torch.jit.freeze(torch.jit.trace(simple(), X)),
    "stateful": lambda: torch.jit.script(Net().eval()),
    "bfloat16": lambda: torch.jit.script(simple().to(torch.bfloat16)),
    "loaded": lambda: saved_and_loaded(torch.jit.script(Net().eval())),
}


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    stream.seek(0)
    return torch.jit.load(stream)


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_computes_the_same_call_after_call_and_its_archive_holds_no_weights(kind: str) -> None:
    module = MODULES[kind]()
    x = X.to(torch.bfloat16) if kind == "bfloat16" else X
    image = freeze(module)
    assert image.content.archive_count == 1
    scripts = image.scripts(0)
    assert image.nbytes >= 64 * 64 * 2
    for segment in image.segments:
        assert len(segment) < 1024 or bytes(segment) not in scripts.archive
    thawed = thaw(image)
    with torch.no_grad():
        assert [bits(thawed(x)) for _ in range(3)] == [bits(module(x)) for _ in range(3)]


def test_every_kind_of_tensor_lies_in_the_view() -> None:
    image = freeze(torch.jit.script(Net()))
    assert image.nbytes == (64 * 64 + 64 * 7) * 4  # linear, mean, scratch, listed, named, state


def test_constants_of_frozen_modules_in_lists_are_segments_too() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = [torch.randn(64, 64), torch.randn(64, 64)]

        def forward(self, x: torch.Tensor, i: int) -> torch.Tensor:
            return x @ self.tables[i]

    module = torch.jit.freeze(torch.jit.script(Listed().eval()))
    image = freeze(module)
    assert image.nbytes == 2 * 64 * 64 * 4
    assert image.content.archive_count == 1
    scripts = image.scripts(0)
    assert len(scripts.archive) < 16_000
    assert bits(thaw(image)(X, 1)) == bits(module(X, 1))


def test_several_modules_share_one_archive_and_tied_weights_one_segment() -> None:
    eager = simple()
    scripted, frozen = torch.jit.script(eager), torch.jit.freeze(torch.jit.script(eager))
    pipeline = {"eager": eager, "deep": [scripted, frozen], "part": getattr(scripted, "0")}
    image = freeze(pipeline)
    assert image.nbytes == 2 * (64 * 64 + 64) * 4
    thawed = thaw(image)
    with torch.no_grad():
        thawed["eager"][0].weight.zero_()
    assert not getattr(thawed["deep"][0], "0").weight.any()
    assert thawed["part"] is getattr(thawed["deep"][0], "0")
    assert bits(thaw(image)["deep"][1](X)) == bits(frozen(X))


def blocks(eps: float = 1e-5) -> nn.Module:
    def block(eps: float) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64, eps))

    torch.manual_seed(1)
    return nn.Sequential(*(block(1e-5) for _ in range(5)), block(eps)).eval()


def kind_of(module: torch.jit.ScriptModule) -> str:
    return module._c._type().qualified_name()


def test_traced_modules_that_do_the_same_are_of_one_class_and_keep_their_own_weights() -> None:
    traced = torch.jit.trace(blocks(), X)
    assert len({kind_of(block) for block in traced.children()}) == 6
    thawed = thaw(freeze(traced))
    parts = list(thawed.children())
    assert len({kind_of(block) for block in parts[1:5]}) == 1  # values have other names in the first and in the last
    names = dict(traced.named_parameters())
    assert {name: bits(p) for name, p in thawed.named_parameters()} == {name: bits(p) for name, p in names.items()}
    assert [m.original_name for m in thawed.modules()] == [m.original_name for m in traced.modules()]
    with torch.no_grad():
        assert bits(thawed(X)) == bits(traced(X))
        assert bits(saved_and_loaded(thawed)(X)) == bits(traced(X))
        next(parts[2].parameters()).add_(1)
    changed = {name for name, p in thawed.named_parameters() if bits(p) != bits(names[name])}
    assert changed == {"2.0.weight"}


def test_traced_modules_with_other_constants_keep_classes_of_their_own() -> None:
    traced = torch.jit.trace(blocks(eps=0.5), X)
    thawed = thaw(freeze(traced))
    norms = [kind_of(list(block.children())[1]) for block in thawed.children()]
    assert norms[1] == norms[4] != norms[5]
    with torch.no_grad():
        assert bits(thawed(X)) == bits(traced(X))


class Point(NamedTuple):
    x: torch.Tensor


class Named(nn.Module):
    """Equal to another of its kind but for a name, which it has in a string as well."""

    def __init__(self, other: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = nn.Identity() if other is None else other

    def forward(self, x: torch.Tensor) -> tuple[Point, str]:
        return Point(x), "__torch__.test_torchscript.Named and __torch__.torch.nn.modules.linear.Identity"


def test_classes_that_are_named_in_strings_and_tuples_with_names_come_back_as_they_were() -> None:
    scripted = torch.jit.script(Named(Named()))
    point, name = thaw(freeze(scripted))(X)
    assert type(point).__name__ == "Point"
    assert bits(point.x) == bits(X)
    assert name == scripted(X)[1]


def test_loads_are_independent_and_the_original_is_not_changed() -> None:
    module = torch.jit.script(Net().eval())
    image = freeze(module)
    one, other = thaw(image), thaw(image)
    one(X)
    with torch.no_grad():
        one.linear.weight.add_(1)
    assert (one.count(), other.count(), module.count()) == (1, 0, 0)
    assert bits(other.linear.weight) == bits(module.linear.weight)
    assert not module.state.any()


def test_modules_load_in_eval_mode_and_the_original_keeps_its_own() -> None:
    module = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))).train()
    thawed = thaw(freeze([module]))[0]
    assert not thawed.training
    assert module.training
    x = torch.randn(2, 4)
    assert bits(thawed(x)) == bits(thawed(x))


def test_what_can_be_done_with_a_script_module_can_be_done_with_a_loaded_one() -> None:
    module = torch.jit.script(simple())
    thawed = thaw(freeze(module))
    expected = bits(module(X))
    assert bits(saved_and_loaded(thawed)(X)) == expected
    assert bits(copy.deepcopy(thawed)(X)) == expected
    assert bits(thaw(freeze(thawed))(X)) == expected
    assert torch.allclose(torch.jit.freeze(thawed)(X), module(X))
    assert thawed.to(torch.float64)(X.double()).dtype is torch.float64
    assert thawed.to("cpu")[0].weight.device.type == "cpu"


def test_python_attributes_set_on_a_module_come_along() -> None:
    module = torch.jit.trace(simple(), X)
    module.labels = ["cat", "dog"]
    assert thaw(freeze(module)).labels == ["cat", "dog"]


def test_a_module_that_torchscript_itself_cannot_save_is_refused() -> None:
    class Calls(nn.Module):
        @torch.jit.ignore
        def python(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.python(x)

    with pytest.raises(TypeError, match=r"A TorchScript module of the pipeline cannot be saved: .*Python function"):
        freeze({"model": torch.jit.script(Calls())})
