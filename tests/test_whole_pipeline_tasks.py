"""`wrapper.remote` and its kin: the whole pipeline in one task, as with any remote function of Ray's."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import pickle
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from keeper_actor import free_all
from memory import bits, own_bytes, weight_bytes
from object_store import bytes_put, until
from pipelines import Classifier, TwoModels, encoded, encoder, vectors
from programs import exported
from ray.exceptions import GetTimeoutError, ObjectLostError, RayTaskError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from ray_zerocopy import JITTaskWrapper, ModelLostError, TaskWrapper, get_wrapper
from ray_zerocopy.tasks.stand_ins import source_of

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def two_models() -> TwoModels:
    torch.manual_seed(0)
    pipeline = TwoModels()
    pipeline.encoder.eval()
    pipeline.head.eval()
    return pipeline


class Retrieval:
    """A model, an index beside it that is large enough to be shared, and methods of every kind."""

    loads = 0

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Classifier().eval()
        self.index = np.arange(1 << 20, dtype=np.float32)
        self.labels = {"a": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Retrieval.loads += 1
        vars(self).update(state)

    def __call__(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.model(x) * float(self.index[3]) * scale

    def where(self) -> tuple[int, int]:
        """The process that this runs in, and how often it has loaded such a pipeline."""
        return os.getpid(), Retrieval.loads

    def look_up(self, row: int) -> float:
        """A docstring."""
        return float(self.index[row]) + len(self.labels)

    @torch.no_grad()
    def quietly(self, x: torch.Tensor) -> torch.Tensor:
        return self(x)

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    @staticmethod
    def twice(x: int) -> int:
        return 2 * x

    @property
    def size(self) -> int:
        return len(self.index)

    def pair(self, x: int) -> tuple[int, int]:
        return x, x + 1

    def count(self, number: int) -> Iterator[torch.Tensor]:
        for value in range(number):
            yield self.model(X) * value

    async def later(self) -> int:
        return 1


def test_the_whole_pipeline_runs_in_one_task_elsewhere_with_the_results_of_the_original() -> None:
    pipeline = Retrieval()
    wrapper = TaskWrapper(pipeline)
    ref = wrapper.remote(X, scale=2.0)
    assert isinstance(ref, ray.ObjectRef)
    result = ray.get(ref)
    assert bits(result) == bits(pipeline(X, scale=2.0))
    assert result.requires_grad == pipeline(X).requires_grad
    result.detach().zero_()  # and can be written to
    assert ray.get(wrapper.where.remote())[0] != os.getpid() == wrapper.where()[0]


def test_methods_of_every_kind_run_in_tasks_and_are_what_they_were() -> None:
    pipeline = Retrieval()
    wrapper = TaskWrapper(pipeline)
    assert ray.get(wrapper.look_up.remote(row=5)) == wrapper.look_up(5) == pipeline.look_up(5)
    assert bits(ray.get(wrapper.quietly.remote(X))) == bits(pipeline.quietly(X))
    assert ray.get(wrapper.name.remote()) == wrapper.name() == "Retrieval"
    assert ray.get(wrapper.twice.remote(4)) == wrapper.twice(4) == 8
    assert wrapper.look_up.__doc__ == "A docstring."
    assert wrapper.look_up.__name__ == "look_up"
    assert inspect.signature(wrapper.look_up) == inspect.signature(pipeline.look_up)
    assert inspect.iscoroutinefunction(wrapper.later)
    assert inspect.isgeneratorfunction(wrapper.count)
    assert wrapper.look_up == wrapper.look_up != wrapper.pair
    assert len({wrapper.look_up, wrapper.look_up}) == 1
    assert wrapper.look_up.__self__.index is wrapper.index
    assert pickle.loads(pickle.dumps(wrapper.look_up))(2) == pipeline.look_up(2)


def test_attributes_that_are_no_methods_are_what_they_were() -> None:
    wrapper = TaskWrapper(Retrieval())
    assert type(wrapper.labels) is dict
    assert type(wrapper.index) is np.ndarray
    assert wrapper.size == 1 << 20
    assert not hasattr(wrapper.model, "remote")
    assert not hasattr(wrapper, "absent")
    with pytest.raises(TypeError, match="has no __call__"):
        TaskWrapper({"model": Classifier()}).remote(X)


def test_a_model_is_a_pipeline_too() -> None:
    model = Classifier().eval()
    for methods in ((), ("describe",)):
        wrapper = TaskWrapper(model, method_names=methods)
        assert bits(ray.get(wrapper.remote(X))) == bits(model(X))
        assert bits(ray.get(wrapper.describe.remote(X, scale=3.0))) == bits(model.describe(X, scale=3.0))
        assert bits(ray.get(wrapper.forward.remote(X))) == bits(model(X))
        assert list(wrapper.state_dict()) == list(model.state_dict())


class Container(nn.Module):
    """A pipeline whose models are in torch's containers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stages = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.named = nn.ModuleDict({"out": nn.Linear(16, 2)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages[1:]:
            x = stage(x)
        return self.named["out"](x)


class Loose:
    """The same, without a module around them."""

    def __init__(self) -> None:
        inner = Container().eval()
        self.stages, self.named = inner.stages, inner.named

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return Container.forward(self, x)  # type: ignore[arg-type]


def test_models_in_containers_of_torchs_are_put_in_their_places() -> None:
    for pipeline in (Container().eval(), Loose()):
        assert bits(ray.get(TaskWrapper(pipeline).remote(X))) == bits(pipeline(X))


def test_references_are_resolved_and_chained_and_awaited_as_with_any_remote_function() -> None:
    pipeline = Retrieval()
    wrapper = TaskWrapper(pipeline)
    expected = bits(pipeline(pipeline(X)[:, :1].repeat(1, 16), 3.0))

    @ray.remote
    def widened(y: torch.Tensor) -> torch.Tensor:
        assert type(y) is torch.Tensor
        return y[:, :1].repeat(1, 16)

    chained = wrapper.remote(widened.remote(wrapper.remote(ray.put(X))), scale=ray.put(3.0))
    ready, waiting = ray.wait([chained])
    assert (ready, waiting) == ([chained], [])
    assert bits(ray.get(chained)) == expected

    async def gathered() -> list[torch.Tensor]:
        return [await wrapper.remote(X), *await asyncio.gather(wrapper.remote(X), wrapper.quietly.remote(X))]

    assert {bits(result) for result in asyncio.run(gathered())} == {bits(pipeline(X))}
    assert ray.get(wrapper.options(num_returns=2).pair.remote(4)) == [4, 5]


def test_a_generators_values_come_one_by_one() -> None:
    pipeline = Retrieval()
    wrapper = TaskWrapper(pipeline)
    values = [bits(ray.get(ref)) for ref in wrapper.count.remote(3)]
    assert values == [bits(value) for value in pipeline.count(3)]
    with torch.no_grad():
        assert [ray.get(ref).requires_grad for ref in wrapper.count.remote(1)] == [False]
    with pytest.raises(TypeError, match="count is a generator"):
        wrapper.count.map([1])
    with pytest.raises(TypeError, match=r"Retrieval\.later\(\) gave a coroutine object"):
        ray.get(wrapper.later.remote())


class Talking:
    def __init__(self) -> None:
        self.model = Classifier().eval()

    def talk(self) -> Generator[Any, Any, str]:
        heard = yield self.model(X).shape
        try:
            yield heard
        except KeyError:
            yield "caught"
        return "end"


def test_a_generator_with_options_is_talked_to_as_without() -> None:
    def said(values: Any) -> list[Any]:
        heard = [next(values), values.send("hello"), values.throw(KeyError())]
        with pytest.raises(StopIteration) as ended:
            next(values)
        return [*heard, ended.value.value]

    wrapper = TaskWrapper(Talking())
    assert said(wrapper.options(num_cpus=0).talk()) == said(wrapper.talk()) == [(3, 4), "hello", "caught", "end"]


class Streaming:
    """A generator that is in a mode of its own while it waits to be asked for the next value."""

    def __init__(self) -> None:
        self.model = Classifier().eval()

    def stream(self, number: int) -> Iterator[tuple[bool, bool]]:
        with torch.inference_mode():
            for _ in range(number):
                value = self.model(X)
                yield value.requires_grad, value.is_inference()

    def grad(self) -> tuple[int, bool, bool]:
        return os.getpid(), torch.is_inference_mode_enabled(), self.model(X).requires_grad


def test_a_generator_keeps_its_own_torch_mode_and_leaves_none_behind() -> None:
    wrapper = TaskWrapper(Streaming())
    for asked in (4, 1):  # to its end, and given up before
        values = wrapper.stream.remote(4)
        assert [ray.get(next(values)) for _ in range(asked)] == [(False, True)] * asked
        del values
    found = ray.get([wrapper.grad.remote() for _ in range(8)])
    assert {tuple(rest) for _, *rest in found} == {(False, True)}


class Failing:
    def __init__(self) -> None:
        self.model = Classifier().eval()

    def __call__(self, x: Any) -> Any:
        if x == 3:
            raise KeyError("the pipeline's own")
        return x

    def fail_once(self, marker: Path, *, hard: bool) -> bool:
        if marker.exists():
            return True
        marker.touch()
        if hard:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("once")


def test_an_exception_has_its_own_type_and_says_where() -> None:
    wrapper = TaskWrapper(Failing())
    with pytest.raises(KeyError, match="the pipeline's own") as caught:
        ray.get(wrapper.remote(3))
    assert isinstance(caught.value, RayTaskError)
    assert "in __call__" in str(caught.value)


def test_a_task_is_retried_as_ray_is_told(tmp_path: Path) -> None:
    wrapper = TaskWrapper(Failing())
    assert ray.get(wrapper.fail_once.remote(tmp_path / "1", hard=True))
    with pytest.raises(WorkerCrashedError):
        ray.get(wrapper.options(max_retries=0).fail_once.remote(tmp_path / "2", hard=True))
    assert ray.get(wrapper.fail_once.options(retry_exceptions=[OSError]).remote(tmp_path / "3", hard=False))
    with pytest.raises(OSError, match="once"):
        ray.get(wrapper.fail_once.remote(tmp_path / "4", hard=False))


class Stateful:
    """Changes itself in every call, its models and what is beside them."""

    def __init__(self) -> None:
        self.model = nn.Linear(4, 4, bias=False)
        nn.init.ones_(self.model.weight)
        self.other = nn.Linear(4, 4)
        self.history: list[int] = []
        self.table = np.zeros(1 << 18)

    @torch.no_grad()
    def __call__(self) -> list[float]:
        found = [float(self.model.weight[0, 0]), len(self.history), float(self.table[7]), self.other.in_features]
        self.model.weight.add_(1)
        self.history.append(1)
        self.table[7] += 1
        self.other = nn.Linear(5, 5)
        found.append(float(self.model.weight[0, 0]))  # within a call it is as changed
        return found


def test_each_call_finds_the_pipeline_as_it_is_here_whatever_others_did_to_theirs() -> None:
    wrapper = TaskWrapper(Stateful())
    assert ray.get([wrapper.remote() for _ in range(12)]) == [[1, 0, 0, 4, 2]] * 12
    assert wrapper.history == []
    wrapper.history.append(1)
    assert ray.get(wrapper.remote()) == [1, 1, 0, 4, 2]
    wrapper.table[7] = 5  # in place, in an array that was published
    assert ray.get(wrapper.remote()) == [1, 1, 5, 4, 2]
    wrapper.other = nn.Linear(3, 3)
    assert ray.get(wrapper.remote()) == [1, 1, 5, 3, 2]
    del wrapper.history[0]
    assert ray.get([wrapper.remote() for _ in range(4)]) == [[1, 0, 5, 3, 2]] * 4


def test_a_worker_keeps_the_pipeline_and_the_store_has_it_once() -> None:
    put = bytes_put()
    wrapper = TaskWrapper(Retrieval())
    assert 4 << 20 <= bytes_put() - put < 5_000_000  # the index
    put = bytes_put()
    seen = [ray.get(wrapper.where.remote()) for _ in range(15)]
    assert bytes_put() - put < 100_000
    last = {pid: max(count for process, count in seen if process == pid) for pid, _ in seen}
    seen = [ray.get(wrapper.where.remote()) for _ in range(15)]
    assert all(count == last.get(pid, count) for pid, count in seen)
    wrapper.index[3] = 7  # now it is another
    put = bytes_put()
    assert ray.get(wrapper.look_up.remote(3)) == ray.get(wrapper.look_up.remote(3)) == 8
    assert 4 << 20 <= bytes_put() - put < 5_000_000
    wrapper.index = wrapper.index[1:]
    assert ray.get(wrapper.look_up.remote(2)) == 8


class Measured:
    """A pipeline that tells what its worker pays for it."""

    def __init__(self, layers: int) -> None:
        self.model = encoder(layers)

    def encode(self, x: torch.Tensor) -> bytes:
        torch.set_num_threads(1)
        return encoded(self.model, x)

    def private(self) -> tuple[int, int]:
        self.encode(vectors())
        return os.getpid(), own_bytes()


def test_a_worker_shares_the_weights_and_they_are_published_once() -> None:
    small, large = Measured(1), Measured(3)
    nbytes = weight_bytes(large.model)
    assert nbytes > 80_000_000
    put = bytes_put()
    first, second = TaskWrapper(small), TaskWrapper(large)
    wrapped = bytes_put() - put
    before = dict(ray.get(first.private.remote()) for _ in range(8))
    results = [ray.get(second.encode.remote(vectors(n))) for n in range(4)]
    assert results == [large.encode(vectors(n)) for n in range(4)]
    after = dict(ray.get(second.private.remote()) for _ in range(8))
    common = before.keys() & after.keys()
    assert common
    assert all(after[pid] - before[pid] < 0.1 * nbytes for pid in common)
    assert bytes_put() - put - wrapped < 1_000_000


class Tied:
    """Two models with weights in common, one of which holds a module of the other."""

    def __init__(self) -> None:
        self.encoder = nn.Linear(8, 8, bias=False)
        self.decoder = nn.Sequential(self.encoder, nn.Linear(8, 8))
        self.same = nn.Linear(8, 8, bias=False)
        self.same.weight = self.encoder.weight

    @torch.no_grad()
    def __call__(self) -> tuple[bool, bool, float]:
        self.encoder.weight.fill_(7)
        return (
            self.decoder[0] is self.encoder,
            self.same.weight is self.encoder.weight,
            float(self.same.weight.sum() - self.decoder[0].weight.sum()),
        )


def test_models_that_share_weights_or_modules_share_them_in_the_task() -> None:
    wrapper = TaskWrapper(Tied())
    assert ray.get([wrapper.remote() for _ in range(4)]) == [(True, True, 0.0)] * 4


def test_the_callers_torch_mode_goes_with_the_call() -> None:
    pipeline = Retrieval()
    wrapper = TaskWrapper(pipeline)
    with torch.no_grad():
        assert not ray.get(wrapper.remote(X)).requires_grad
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert bits(ray.get(wrapper.remote(X))) == bits(pipeline(X))
        results = wrapper.map([X])
    assert not next(results).requires_grad
    assert ray.get(wrapper.remote(X)).requires_grad


def test_named_and_pickled_wrappers_have_all_of_it() -> None:
    expected = bits(two_models()(X))
    try:
        TaskWrapper(two_models(), name="whole")
        named = get_wrapper("whole")
        for wrapper in (named, pickle.loads(pickle.dumps(named)), ray.get(ray.put(TaskWrapper(two_models())))):
            assert bits(ray.get(wrapper.remote(X))) == expected
            assert [bits(y) for y in wrapper.options(num_cpus=0).map([X])] == [expected]
            assert ray.get(wrapper.confident.remote(X)).shape == (3, 4)
        TaskWrapper(Retrieval(), name="retrieval")
        retrieval = get_wrapper("retrieval")
        put = bytes_put()
        assert ray.get(retrieval.look_up.remote(5)) == 6
        assert bytes_put() - put < 100_000  # the index is with the keeper
        del retrieval, named, wrapper
    finally:
        free_all()


class Scripted:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.first = torch.jit.script(Classifier(16).eval())
        self.again = torch.jit.trace(nn.Linear(4, 4).eval(), torch.zeros(1, 4))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.first(x))


def test_torchscript_runs_whole_in_a_task() -> None:
    pipeline = Scripted()
    wrapper = JITTaskWrapper(pipeline)
    assert {bits(y) for y in ray.get([wrapper.remote(X) for _ in range(3)])} == {bits(pipeline(X))}
    module = JITTaskWrapper(pipeline.first)
    assert bits(ray.get(module.remote(X))) == bits(ray.get(module.forward.remote(X))) == bits(pipeline.first(X))


def test_an_exported_program_is_called_as_its_stand_in_is() -> None:
    model = nn.Linear(16, 16)
    program = exported(model, 16)

    class Holder:
        def __init__(self) -> None:
            self.program = program

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return self.program.module()(x)

    x = program.example_inputs[0][0]
    for _ in range(2):
        assert bits(ray.get(TaskWrapper(program).remote(x))) == bits(model(x))
        assert bits(ray.get(TaskWrapper(Holder()).remote(x))) == bits(model(x))


class Outer:
    """Holds a model, what was wrapped before, and a reference."""

    def __init__(self, inner: Any) -> None:
        self.model = Classifier().eval()
        self.inner = inner
        self.offset = ray.put(torch.ones(()))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.model(x) + ray.get(self.offset)


def test_wrappers_stand_ins_and_references_in_the_pipeline_go_along() -> None:
    inner = two_models()
    wrapped = TaskWrapper(inner)
    for held in (wrapped, wrapped.head, wrapped.options(num_cpus=0)):
        outer = Outer(held)
        expected = bits((inner.head if held is wrapped.head else inner)(X) + outer.model(X) + 1)
        wrapper = TaskWrapper(outer)
        assert bits(ray.get(wrapper.remote(X))) == expected
        assert bits(ray.get(TaskWrapper(wrapper).remote(X))) == expected
    outer = Outer(wrapped)
    wrapper = TaskWrapper(outer)
    wrapper.inner.encoder = nn.Identity()  # within the wrapper within
    assert bits(ray.get(wrapper.remote(X))) == bits(inner.head(X) + outer.model(X) + 1)
    holder = TaskWrapper(Holding(TaskWrapper(Retrieval())))
    assert ray.get(holder.remote(3)) == 4
    holder.inner.index[3] = 7  # in place
    assert ray.get(holder.remote(3)) == 8


class Holding:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, row: int) -> float:
        return self.inner.look_up(row)


class OwnNames:
    """A pipeline that calls its own what wrappers call theirs."""

    options = "own"

    def __init__(self) -> None:
        self.model = Classifier().eval()
        self.map = [1]

    def __call__(self, x: Any) -> Any:
        return x

    def remote(self, x: Any) -> Any:
        return "own", x


class OwnNamesOfModel(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.options = nn.Linear(2, 2)

    def remote(self) -> str:
        return "own"


def test_what_the_pipeline_calls_its_own_goes_before() -> None:
    wrapper = TaskWrapper(OwnNames())
    assert wrapper.remote(1) == ("own", 1)
    assert ray.get(wrapper.remote.remote(1)) == ("own", 1)
    assert wrapper.options == "own"
    assert wrapper.map == [1]
    assert ray.get(TaskWrapper.remote(wrapper, 1)) == 1
    assert list(TaskWrapper.map(wrapper, [1, 2])) == [*wrapper.map_unordered([1]), 2]
    optioned = TaskWrapper.options(wrapper, num_cpus=0)
    assert optioned.remote(1) == ("own", 1)
    assert ray.get(type(optioned).remote(optioned, 1)) == 1
    model = TaskWrapper(OwnNamesOfModel().eval())
    assert model.remote() == "own"
    assert model.options.in_features == 2
    assert TaskWrapper.options(model, num_cpus=0)(X).shape == (3, 4)


class Told:
    """A pipeline that tells with what it runs, here or in its model's task."""

    def __init__(self) -> None:
        self.model = Teller()

    def __call__(self, _: Any = None) -> Any:
        return told()

    def by_model(self) -> Any:
        return self.model()

    async def later(self) -> Any:
        await asyncio.sleep(0)
        return self.model()

    def each(self) -> Iterator[Any]:
        yield self.model()
        yield self.model()

    async def each_later(self) -> AsyncIterator[Any]:
        yield self.model()


class Teller(nn.Module):
    def forward(self) -> Any:
        return told()


def told() -> dict[str, Any]:
    context = ray.get_runtime_context()
    return {**context.get_assigned_resources(), "variable": os.environ.get("RAY_ZEROCOPY_TEST")}


def test_options_are_those_of_ray_for_the_pipeline_and_for_its_models() -> None:
    wrapper = TaskWrapper(Told())
    assert ray.get(wrapper.remote()) == wrapper.by_model() == {"CPU": 1.0, "variable": None}
    some = wrapper.options(num_cpus=0.5, resources={"node:__internal_head__": 0.01})
    expected = {"CPU": 0.5, "node:__internal_head__": 0.01, "variable": None}
    assert ray.get(some.remote()) == expected
    assert list(some.map([None])) == list(some.map_unordered([None])) == [expected]
    assert some.by_model() == expected
    assert asyncio.run(some.later()) == expected
    assert list(some.each()) == [expected] * 2

    async def first() -> Any:
        return [value async for value in some.each_later()]

    assert asyncio.run(first()) == [expected]
    assert wrapper.by_model() == {"CPU": 1.0, "variable": None}
    assert ray.get(some.options(num_cpus=2).remote())["CPU"] == 2
    assert pickle.loads(pickle.dumps(some)).by_model() == copy.copy(some).by_model() == expected
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    environment = {"env_vars": {"RAY_ZEROCOPY_TEST": "yes"}}
    placed = wrapper.options(num_cpus=0, scheduling_strategy=here, runtime_env=environment)
    assert ray.get(placed.remote()) == placed.by_model() == {"variable": "yes"}


def test_options_hold_for_a_model_that_is_an_attribute_of_the_pipeline() -> None:
    wrapper = TaskWrapper(Told(), ["forward"])
    model = wrapper.options(num_cpus=0.5).model
    assert model()["CPU"] == 0.5
    assert pickle.loads(pickle.dumps(model))()["CPU"] == copy.copy(model)()["CPU"] == 0.5
    assert pickle.loads(pickle.dumps(model.forward))()["CPU"] == 0.5
    assert wrapper.options(num_cpus=0.25).by_model()["CPU"] == 0.25
    assert wrapper.model()["CPU"] == 1
    with pytest.raises(ValueError, match=r"num_returns=2 is for \.remote\(\)"):
        wrapper.options(num_returns=2).model()


def test_options_that_ray_does_not_know_are_an_error_at_once() -> None:
    wrapper = TaskWrapper(Told())
    with pytest.raises(ValueError, match="num_cpu "):
        wrapper.options(num_cpu=1)
    with pytest.raises(TypeError, match="num_cpus"):
        wrapper.by_model.options(num_cpus="all")
    with pytest.raises(ValueError, match="max_calls"):
        wrapper.options(max_calls=1)
    with pytest.raises(ValueError, match=r"num_returns=2 is for \.remote\(\)"):
        wrapper.options(num_returns=2)()


def test_an_actor_that_holds_the_last_cpu_starts_tasks_that_need_none() -> None:
    @ray.remote(num_cpus=4)
    class Holder:
        def run(self, wrapper: Any) -> Any:
            return ray.get(wrapper.remote()), wrapper.by_model(), next(wrapper.map([1]))

    wrapper = TaskWrapper(Told())
    holder = Holder.remote()
    assert ray.get(holder.run.remote(wrapper)) == ({"variable": None},) * 3
    free = wrapper.options(num_cpus=0)
    assert ray.get(free.remote()) == free.by_model() == wrapper.by_model.options(num_cpus=0)() == {"variable": None}
    ray.kill(holder)


def test_a_wrapper_that_was_freed_says_so_and_what_it_started_ends_well() -> None:
    wrapper = TaskWrapper(Retrieval())
    optioned, method = wrapper.options(num_cpus=0), wrapper.look_up
    started = wrapper.where.remote()
    wrapper.free()
    assert ray.get(started)
    for call in (lambda: wrapper.remote(X), lambda: optioned.remote(X), lambda: method.remote(1), lambda: optioned(X)):
        with pytest.raises(RuntimeError, match="was freed"):
            call()


def is_lost(ref: Any) -> bool:
    """Ray gives up an object of a process that ended in its own time, until which it can be loaded."""
    try:
        ray.get(ref, timeout=1)
    except GetTimeoutError:
        return False
    except ObjectLostError:
        return True
    return False


def test_a_pipeline_whose_publisher_ended_says_so() -> None:
    @ray.remote(num_cpus=0)
    class Publisher:
        def wrapper(self) -> Any:
            return TaskWrapper(Measured(1))

    publisher = Publisher.remote()
    wrapper = ray.get(publisher.wrapper.remote())
    ray.kill(publisher)
    assert until(lambda: is_lost(source_of(wrapper.model).image))
    with pytest.raises(ModelLostError, match="Wrap the model again"):
        ray.get(wrapper.encode.remote(vectors()))
