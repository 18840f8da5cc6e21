"""Stand-ins and task wrappers behave as what they stand for, and refuse what tasks would not see."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits
from ray import cloudpickle
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper

pytestmark = pytest.mark.usefixtures("cluster")

X = torch.ones(1, 2)


class Pid(nn.Module):
    """Its result tells which process ran it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, *_: Any) -> int:
        return os.getpid()


class Llm(nn.Module):
    """Attributes whose names something that stands for it might like to have."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 3)
        self.image = nn.Linear(2, 4)
        self.module = "its own module"
        self.source = "its own source"
        self.type = "decoder"
        self._methods = ["its own methods"]
        self._pipeline = "its own pipeline"
        self._local = "its own local"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.image(x)

    def half(self, x: int = 0) -> int:  # type: ignore[override]
        return os.getpid()


class Containers:
    """A plain pipeline whose models are in torch's containers."""

    def __init__(self) -> None:
        self.layers = nn.ModuleList([Pid(), nn.ModuleList([Pid()])])
        self.heads = nn.ModuleDict({"a": Pid()})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(2))])
        self.biases = nn.ParameterDict({"b": nn.Parameter(torch.ones(2))})
        self.net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())

    def __call__(self, x: torch.Tensor) -> list[int]:
        return [self.layers[0](x), self.layers[1][0](x), self.heads["a"](x), *(layer(x) for layer in self.layers[1])]

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[0](x) * self.scales[0][0] + self.biases["b"][0]


@pytest.fixture(scope="module")
def llm(cluster: None) -> Any:
    class Pipeline:
        def __init__(self) -> None:
            self.llm = Llm()

    return TaskWrapper(Pipeline()).llm


@pytest.fixture(scope="module")
def containers(cluster: None) -> Any:
    return TaskWrapper(Containers())


@pytest.fixture(scope="module")
def net(containers: Any) -> Any:
    return containers.net


def test_every_name_but_special_ones_is_the_models(llm: Any) -> None:
    assert llm.model.out_features == 3
    assert (llm.module, llm.source, llm.type) == ("its own module", "its own source", "decoder")
    assert (llm._methods, llm._pipeline, llm._local) == (
        ["its own methods"],
        "its own pipeline",
        "its own local",
    )
    assert llm(X).shape == (1, 4)
    assert {"model", "image", "_methods"} <= set(dir(llm))


def test_every_name_but_special_ones_is_the_pipelines() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self._pipeline = "its own"
            self.model = Pid()

    assert TaskWrapper(Pipeline())._pipeline == "its own"


def test_what_torchs_containers_hold_runs_as_tasks(containers: Any) -> None:
    pids = containers(X)
    assert len(pids) == 4
    assert os.getpid() not in pids
    assert isinstance(containers.layers, nn.ModuleList)
    assert len(containers.layers) == 2
    assert list(containers.heads) == ["a"]
    assert containers.scales[0].tolist() == containers.biases["b"].tolist() == [1, 1]


def test_a_container_is_a_pipeline_too() -> None:
    wrapper = TaskWrapper(nn.ModuleList([Pid(), Pid()]))
    assert [layer(X) == os.getpid() for layer in wrapper] == [False, False]
    assert set(ActorWrapper(Containers()).constructor_kwargs["model_refs"]) == {
        "layers[0]",
        "layers[1][0]",
        "heads.a",
        "net",
    }


def test_a_list_of_modules_is_sliced_and_added(containers: Any) -> None:
    for copied in copies():
        layers = copied(containers).layers
        assert repr(layers) == repr(containers.layers)
        assert repr(layers).startswith("ModuleList(")
        assert [layer(X) == os.getpid() for layer in layers[:1]] == [False]
        assert isinstance(layers[1:], nn.ModuleList)
        assert [layer(X) == os.getpid() for layer in layers[1][::-1][:5]] == [False]
        assert [layer(X) == os.getpid() for layer in layers[:1] + layers[1]] == [False, False]
        assert layers[:1].eval()[0] is layers[0]
        assert not layers[5:]


def test_a_container_with_a_forward_of_its_own_is_a_model() -> None:
    class Stack(nn.ModuleList):
        def forward(self, x: torch.Tensor) -> list[int]:
            return [layer(x) for layer in self]

    assert os.getpid() not in TaskWrapper(Stack([Pid(), Pid()]))(X)


def test_a_container_of_stand_ins_refuses_what_they_refuse(containers: Any) -> None:
    assert containers.layers.eval() is containers.layers
    for change in (lambda c: c.half(), lambda c: c.train(), lambda c: c.load_state_dict(c.state_dict())):
        with pytest.raises(AttributeError, match="would have no effect"):
            change(containers.layers)


def test_pipeline_code_indexes_iterates_and_measures_a_stand_in(containers: Any, net: Any) -> None:
    assert bits(containers.first(X)) == bits(net[0](X) + 1)
    assert len(net) == 2
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU]
    assert type(net[-1]) is nn.ReLU
    assert isinstance(net, Iterable)
    assert isinstance(net, Sized)


class Special:
    """A pipeline with special methods of many kinds."""

    def __init__(self) -> None:
        self.model = Pid()
        self.entries: dict[str, Any] = {"a": 1, "b": 2}
        self.is_open = False

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.entries[key] = value

    def __delitem__(self, key: str) -> None:
        del self.entries[key]

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def __iter__(self) -> Special:
        self.left = list(self.entries)
        return self

    def __next__(self) -> str:
        if not self.left:
            raise StopIteration
        return self.left.pop(0)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.entries)

    def __enter__(self) -> Special:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def __or__(self, other: str) -> str:
        return f"then {other}"

    def __iadd__(self, other: str) -> Special:
        self.entries[other] = 3
        return self

    def __eq__(self, other: object) -> bool:
        return other == "special"

    def __call__(self) -> int:
        return self.model()


def copies() -> list[Callable[[Any], Any]]:
    return [
        lambda obj: obj,
        copy.copy,
        copy.deepcopy,
        lambda obj: pickle.loads(cloudpickle.dumps(obj)),
        lambda obj: ray.get(ray.put(obj)),
    ]


def test_a_wrapper_and_its_copies_support_the_special_methods_of_the_pipeline() -> None:
    for copied in copies():
        wrapper: Any = copied(TaskWrapper(Special()))
        assert type(wrapper).__name__ == "TaskWrapper"
        assert isinstance(wrapper, TaskWrapper)
        assert wrapper["a"] == 1
        wrapper["c"] = 5
        del wrapper["a"]
        assert (len(wrapper), "c" in wrapper, "a" in wrapper) == (2, True, False)
        assert list(wrapper) == ["b", "c"]
        assert next(iter(wrapper)) == "b"
        assert list(reversed(wrapper)) == ["c", "b"]
        assert wrapper | "print" == "then print"
        assert wrapper == "special"
        with pytest.raises(TypeError, match="unhashable"):
            hash(wrapper)
        with wrapper as opened:
            assert opened is wrapper
            assert wrapper.is_open
        assert not wrapper.is_open
        before = wrapper
        wrapper += "d"
        assert wrapper is before
        assert wrapper["d"] == 3
        assert wrapper() != os.getpid()


def test_containers_of_python_are_pipelines_that_go_on_being_containers() -> None:
    wrapper: Any = TaskWrapper({"a": Pid(), "b": [Pid()]})
    assert wrapper["a"]() != os.getpid()
    assert wrapper["b"][0]() != os.getpid()
    assert (len(wrapper), list(wrapper), "a" in wrapper, set({**wrapper})) == (2, ["a", "b"], True, {"a", "b"})
    assert type(copy.copy(TaskWrapper([Pid()]))[0]()) is int


def test_asynchronous_pipelines_are_awaited_entered_and_iterated() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.model = Pid()

        async def __call__(self) -> int:
            return self.model()

        async def __aenter__(self) -> str:
            return "entered"

        async def __aexit__(self, *_: object) -> None:
            pass

        async def __aiter__(self) -> Any:
            yield self.model()

    async def use(wrapper: Any) -> None:
        assert await wrapper() != os.getpid()
        async with wrapper as entered:
            assert entered == "entered"
        assert os.getpid() not in [pid async for pid in wrapper]

    asyncio.run(use(TaskWrapper(Pipeline())))


def test_what_the_pipeline_or_the_model_does_not_support_is_not_claimed(llm: Any) -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.model = Pid()

    for obj in (TaskWrapper(Pipeline()), llm):
        assert obj
        assert np.asarray(obj).shape == ()
        assert not isinstance(obj, (Iterable, Sized))
        assert {obj: 1}[obj] == 1
        for use in (len, iter, next, reversed, lambda o: o[0], lambda o: 1 in o, lambda o: o + 1, int):
            with pytest.raises(TypeError):
                use(obj)


def test_a_stand_in_and_its_copies_go_on_standing_for_the_model(net: Any) -> None:
    for copied in copies():
        again = copied(net)
        assert type(again).__name__ == "StandIn"
        assert len(again) == 2
        assert bits(again(X)) == bits(net(X))
        assert repr(again) == "<pipeline.net: Sequential, run by Ray tasks>"
    assert cloudpickle.loads(cloudpickle.dumps(net.__call__))(X).equal(net(X))


def test_special_methods_that_are_named_run_as_tasks() -> None:
    class Remote(nn.Module):
        def __getitem__(self, index: int) -> int:
            return os.getpid()

        def __len__(self) -> int:
            return os.getpid()

        def __enter__(self) -> Remote:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    stand_in: Any = TaskWrapper([Remote()], method_names=("__getitem__",))[0]
    assert stand_in[0] != os.getpid()
    assert len(stand_in) == os.getpid()
    with stand_in as entered:  # the model itself, which stands here for what runs in tasks
        assert entered is stand_in


MUTATORS = [
    "load_state_dict",
    "to",
    "half",
    "float",
    "double",
    "bfloat16",
    "cuda",
    "cpu",
    "xpu",
    "type",
    "to_empty",
    "apply",
    "requires_grad_",
    "zero_grad",
    "share_memory",
    "compile",
    "add_module",
    "register_module",
    "register_buffer",
    "register_parameter",
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_state_dict_post_hook",
    "set_submodule",
    "set_extra_state",
    "train",
    "append",
    "extend",
    "insert",
    "pop",
]


@pytest.mark.parametrize("name", [name for name in MUTATORS if hasattr(nn.Sequential, name)])
def test_what_would_change_a_module_raises(net: Any, name: str) -> None:
    assert hasattr(net, name)
    with pytest.raises(AttributeError, match=rf"^\.{name}\(\) would have no effect.*wrap it again"):
        getattr(net, name)()


def test_setting_and_deleting_attributes_and_items_raise(net: Any) -> None:
    for change in (
        lambda: setattr(net, "scale", 2),
        lambda: delattr(net, "training"),
        lambda: net.__setitem__(0, nn.Linear(2, 2)),
        lambda: net.__delitem__(0),
        lambda: net.__iadd__([nn.ReLU()]),
    ):
        with pytest.raises(AttributeError, match="would have no effect"):
            change()
    assert len(net) == 2


def test_a_wrapper_of_a_model_refuses_them_too() -> None:
    wrapper: Any = TaskWrapper(Pid())
    with pytest.raises(AttributeError, match="would have no effect"):
        wrapper.half()
    with pytest.raises(AttributeError, match=r"Setting \.scale would have no effect"):
        wrapper.scale = 2


def test_eval_mode_is_what_a_stand_in_is_in_already(net: Any) -> None:
    assert net.eval() is net
    assert net.train(False) is net
    assert net.train(mode=False) is net
    assert not net.training
    with pytest.raises(AttributeError, match=r"\.train\(\) would have no effect"):
        net.train(True)


def test_what_only_reads_a_module_is_answered_here(net: Any) -> None:
    assert [name for name, _ in net.named_parameters()] == list(net.state_dict()) == ["0.weight", "0.bias"]
    assert len(list(net.modules())) == 3
    assert net.get_submodule("0").in_features == 2
    assert bits(net.forward(X)) == bits(net(X))


def test_a_models_own_method_of_such_a_name_runs_as_a_task_if_it_is_named() -> None:
    wrapper: Any = TaskWrapper(Llm(), method_names=("half",))
    assert wrapper.half(1) != os.getpid()
    assert cloudpickle.loads(cloudpickle.dumps(wrapper.half))() != os.getpid()
    with pytest.raises(AttributeError, match="would have no effect"):
        wrapper.float()


def test_a_module_that_is_no_container_may_have_methods_named_as_a_containers() -> None:
    class Cache(nn.Module):
        def update(self) -> str:
            return "updated"

        def pop(self) -> str:
            return "popped"

    wrapper: Any = TaskWrapper(Cache())
    assert (wrapper.update(), wrapper.pop()) == ("updated", "popped")


@dataclasses.dataclass(order=True)
class Versioned:
    version: int
    model: Any = dataclasses.field(compare=False)


def test_two_wrappers_are_compared_as_their_pipelines_are() -> None:
    one, same, two = (TaskWrapper(Versioned(version, Pid())) for version in (1, 1, 2))
    assert one == same
    assert one != two
    assert one < two
    assert one != 1
    assert sorted([two, one])[0] is one  # type: ignore[type-var]


def test_dictionary_keys_with_one_repr_lead_to_models_of_their_own() -> None:
    class Key:
        def __repr__(self) -> str:
            return "Key"

    pipeline = {Key(): nn.Linear(2, 2), Key(): nn.Linear(2, 3)}
    wrapper: Any = TaskWrapper(pipeline)
    assert [wrapper[key](X).shape[1] for key in wrapper] == [2, 3]
    actor = ActorWrapper(pipeline)
    assert len(actor.constructor_kwargs["model_refs"]) == 2
    assert [model(X).shape[1] for model in actor.load().values()] == [2, 3]
