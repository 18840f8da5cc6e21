"""What wrappers say of what they hold: `nbytes`, and their `repr`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import Classifier, TwoModels
from torch import nn

from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper, get_wrapper, save

pytestmark = pytest.mark.usefixtures("cluster")

WIDTH = 512
NET = (WIDTH * WIDTH + WIDTH) * 4


def net() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


class Pipeline:
    """Two models that share their weights, and an array beside them."""

    def __init__(self) -> None:
        self.stages: list[Any] = [nn.Sequential(net()), net()]
        self.stages[1].weight = self.stages[0][0].weight
        self.table = torch.zeros(1000, 1000)


BYTES = 4 * WIDTH * WIDTH + 2 * 4 * WIDTH + 4 * 1000 * 1000


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", [TaskWrapper, ActorWrapper])
def test_nbytes_counts_shared_weights_once_and_what_lies_beside_the_models(kind: Any, named: bool) -> None:
    with kind(Pipeline(), **({"name": "held"} if named else {})) as wrapper:
        assert wrapper.nbytes == pytest.approx(BYTES, rel=0.001)
        assert pickle.loads(pickle.dumps(wrapper)).nbytes == wrapper.nbytes
    with pytest.raises(RuntimeError, match="freed"):
        kind.nbytes.__get__(wrapper, kind)


@pytest.mark.parametrize("kind", [JITTaskWrapper, JITActorWrapper])
def test_the_wrappers_of_torchscript_say_the_same(kind: Any) -> None:
    wrapper = kind({"net": torch.jit.script(net())})
    assert wrapper.nbytes == pytest.approx(NET, rel=0.001)
    assert repr(wrapper).startswith(f"<{kind.__name__} of dict with ['net'] (RecursiveScriptModule), 1.1 MB: ")


def test_a_repr_says_which_models_are_held_how_large_they_are_and_where_they_are_from(tmp_path: Path) -> None:
    models = "TwoModels with encoder (Sequential), head (Classifier), 0.0 MB"
    assert repr(TaskWrapper(TwoModels())) == f"<TaskWrapper of {models}: its models run as Ray tasks>"
    assert repr(ActorWrapper(TwoModels())) == (
        f"<ActorWrapper of {models}: its load(), called in an actor, gives the pipeline>"
    )
    assert repr(TaskWrapper(net())).startswith("<TaskWrapper of Linear, 1.1 MB: ")
    assert repr(ActorWrapper(net())).startswith("<ActorWrapper of Linear, 1.1 MB: ")
    many = repr(ActorWrapper([net() for _ in range(8)]))
    assert "list with [0] (Linear), [1] (Linear)" in many
    assert "[4] (Linear), 3 more models, 8.4 MB" in many

    path = str(tmp_path / "model.safetensors")
    save(TwoModels(), path)
    assert repr(ActorWrapper.from_file(path)).startswith(
        f"<ActorWrapper from file {path!r}, shared through the store of TwoModels with encoder, head, 0.0 MB: "
    )


def test_a_repr_of_a_wrapper_with_a_name_says_the_name_and_asks_nobody() -> None:
    name = "'held' in the namespace "
    with TaskWrapper(net(), name="held") as task:
        assert repr(task).startswith(f"<TaskWrapper {name}")
        assert "of Linear, 1.1 MB: " in repr(get_wrapper("held"))
    with ActorWrapper(net(), name="held") as actor:
        assert repr(actor).startswith(f"<ActorWrapper {name}")
        assert "of Linear, 1.1 MB: " in repr(actor)
        assert "of Linear, 1.1 MB: " in repr(get_wrapper("held"))
        unpickled = pickle.loads(pickle.dumps(actor))
        assert " MB" not in repr(unpickled)  # by the time it is used the name may stand for something else
        unpickled.load()
        assert "of Linear, 1.1 MB: " in repr(unpickled)
    assert repr(task) == "<TaskWrapper, freed>"
    assert repr(actor) == "<ActorWrapper, freed>"


class Sized:
    """A pipeline with an `nbytes` of its own."""

    def __init__(self) -> None:
        self.model = Classifier()

    @property
    def nbytes(self) -> str:
        return "the pipeline's"


def test_a_pipelines_own_nbytes_goes_before_that_of_the_wrapper() -> None:
    wrapper = TaskWrapper(Sized())
    assert wrapper.nbytes == "the pipeline's"
    plain = TaskWrapper(TwoModels())
    weights = sum(p.nbytes for m in (TwoModels().encoder, TwoModels().head) for p in m.parameters())
    assert weights <= plain.nbytes < weights + 6 * 64  # each tensor is aligned
    plain.nbytes = 3
    assert plain.nbytes == 3
