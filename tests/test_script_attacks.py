"""Ways in which a TorchScript module could keep something from one call to the next: no later call sees it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from ray_zerocopy import TaskWrapper
from ray_zerocopy.image import freeze, thaw_in_view
from ray_zerocopy.tasks.freshness import FreshState

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

PAUSE_SECONDS = 0.03


class Attribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(70_000))
        self.calls = 0

    def forward(self) -> torch.Tensor:
        self.calls += 1
        return self.weight[:1] + self.calls


class Property(Attribute):
    @property
    def total(self) -> int:
        return self.calls

    @total.setter
    def total(self, value: int) -> None:
        self.calls = value

    def forward(self) -> torch.Tensor:
        self.total = self.total + 1
        return self.weight[:1] + self.total


class Buffer(Attribute):
    def forward(self) -> torch.Tensor:
        self.weight.add_(1)
        return self.weight[:1].clone()


class OtherTensor(Attribute):
    def forward(self) -> torch.Tensor:
        self.weight = self.weight + 1
        return self.weight[:1]


class Form(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.state = torch.zeros(2, 3)

    def forward(self) -> torch.Tensor:
        self.state.t_()
        return torch.tensor(self.state.shape)


class FormInList(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.states = [torch.zeros(2, 3)]

    def forward(self) -> torch.Tensor:
        self.states[0].unsqueeze_(0)
        return torch.tensor(self.states[0].shape)


class FormInDict(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.states = {"a": torch.zeros(2, 3)}

    def forward(self) -> torch.Tensor:
        self.states["a"].t_()
        return torch.tensor(self.states["a"].shape)


class Content(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.history = [0]

    def forward(self) -> torch.Tensor:
        self.history.append(1)
        return torch.tensor(self.history)


class Reordered(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.order = {"a": 1, "b": 2}

    def forward(self) -> torch.Tensor:
        first = 0
        for key in self.order:
            if first == 0:
                first = self.order[key]
        a = self.order.pop("a")
        self.order["a"] = a
        return torch.tensor([first])


class MovedItem(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.one = [1, 2, 3]
        self.two = [0]

    def forward(self) -> torch.Tensor:
        self.two.append(self.one.pop())
        return torch.tensor([len(self.one), len(self.two)])


class OneList(Attribute):
    """Two lists of the same content become one: what is put into one is then in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one = [1]
        self.two = [1]

    def forward(self) -> torch.Tensor:
        self.one.append(2)
        seen = len(self.two)
        self.one.pop()
        self.one = self.two
        return torch.tensor([seen])


class OneListInLists(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.lists = [[1], [1]]

    def forward(self) -> torch.Tensor:
        self.lists[0].append(2)
        seen = len(self.lists[1])
        self.lists[0].pop()
        self.lists[0] = self.lists[1]
        return torch.tensor([seen])


class SignOfZero(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.values = [0.0]

    def forward(self) -> torch.Tensor:
        seen = 1.0 / torch.tensor(self.values)
        self.values[0] = -0.0
        return seen


@torch.jit.script
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def more(self) -> int:
        self.count += 1
        return self.count


class Instance(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    def forward(self) -> torch.Tensor:
        return torch.tensor([self.counter.more()])


class Inner(Attribute):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Attribute()

    def forward(self) -> torch.Tensor:
        return self.inner()


def traced_with_a_constant() -> Any:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [torch.zeros(2, 3)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.hidden[0].add_(1).t_().sum()

    return torch.jit.trace(Constant(), torch.zeros(()), check_trace=False)


class SetByPython(nn.Module):
    """Its code, which is Python, sets attributes of a TorchScript module whose own code does not."""

    def __init__(self) -> None:
        super().__init__()
        self.script = torch.jit.script(Form().eval())

    def forward(self, name: str, value: object) -> str:
        seen = repr(getattr(self.script, name))
        setattr(self.script, name, value)
        return seen


SET_BY_PYTHON = [("calls", 1), ("training", True), ("state", torch.ones(2)), ("weight", torch.ones(70_000))]

SCRIPTED = [
    Attribute,
    Property,
    Buffer,
    OtherTensor,
    Form,
    FormInList,
    FormInDict,
    Content,
    Reordered,
    MovedItem,
    OneList,
    OneListInLists,
    SignOfZero,
    Instance,
    Inner,
]


@pytest.mark.parametrize("cls", SCRIPTED, ids=lambda cls: cls.__name__)
def test_no_call_sees_what_another_changed(cluster: None, cls: type[nn.Module]) -> None:
    wrapped = TaskWrapper(torch.jit.script(cls().eval()))
    seen = [repr(wrapped()) for _ in range(5)]
    time.sleep(PAUSE_SECONDS)
    seen += [repr(wrapped()) for _ in range(2)]
    assert len(set(seen)) == 1


@pytest.mark.parametrize("cls", SCRIPTED, ids=lambda cls: cls.__name__)
def test_each_change_is_noticed_or_undone(cls: type[nn.Module]) -> None:
    thawed = thaw_in_view(freeze(torch.jit.script(cls().eval())))
    view = thawed.view
    state = FreshState(thawed)
    del thawed
    state.seal()
    fresh = repr(state.model())
    if state.restore():
        view.reset()
        assert repr(state.model()) == fresh


@pytest.mark.parametrize(("name", "value"), SET_BY_PYTHON, ids=lambda value: str(value)[:8])
def test_no_call_sees_what_python_code_set(cluster: None, name: str, value: object) -> None:
    wrapped = TaskWrapper(SetByPython())
    assert len({wrapped(name, value) for _ in range(5)}) == 1


def test_a_constant_of_the_code_that_a_call_changes_is_noticed_or_undone() -> None:
    thawed = thaw_in_view(freeze(traced_with_a_constant()))
    view = thawed.view
    state = FreshState(thawed)
    del thawed
    state.seal()
    x = torch.zeros(())
    fresh = state.model(x)
    if state.restore():
        view.reset()
        assert state.model(x) == fresh
