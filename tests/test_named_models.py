"""Models with names: found by other programs, kept when theirs has ended, in one copy, and given up when told."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from keeper_actor import ask_keeper, end_keeper, failure, keeper_pid, run_program
from memory import bits, own_bytes
from object_store import store_in_use, store_is_empty, until
from packaging.version import Version
from pipelines import Classifier, TwoModels, Worker
from ray import cloudpickle
from torch import nn

import ray_zerocopy
from ray_zerocopy import (
    ActorWrapper,
    JITActorWrapper,
    JITTaskWrapper,
    ModelLostError,
    TaskWrapper,
    get_wrapper,
    list_models,
    load_pipeline_in_actor,
)

pytestmark = pytest.mark.usefixtures("cluster", "names_end")

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
LARGE = 32 << 20


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier().eval()


def large(seed: int = 0) -> nn.Sequential:
    """32 MB in 8 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(8)))


def result(model: Any, x: torch.Tensor = X) -> bytes:
    with torch.no_grad():
        return bits(model(x))


def names() -> set[str]:
    return {model.name for model in list_models()}


PROGRAM = """
import torch
from keeper_actor import free_all, Holder
from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper
from test_named_models import classifier
scripted = torch.jit.script(classifier())
ActorWrapper(classifier(), name="actor", lifetime="detached")
JITActorWrapper(scripted, name="jit actor", lifetime="detached")
TaskWrapper(classifier(), name="task", lifetime="detached")
JITTaskWrapper(scripted, name="jit task", lifetime="detached")
ActorWrapper(classifier(), name="not detached")
wrappers = [ActorWrapper(classifier()), TaskWrapper(classifier())]
holder = Holder.options(name="holder", lifetime="detached").remote(*wrappers)
ray.get(holder.__ray_ready__.remote())
"""


@pytest.fixture(scope="module")
def ended_program(cluster: None) -> Iterator[None]:
    run_program(PROGRAM)
    assert until(lambda: "not detached" not in names())  # the cluster has noticed the end
    yield
    ray.kill(ray.get_actor("holder"))


@ray.remote(num_cpus=0)
def found_in_a_task(name: str, x: torch.Tensor) -> bytes:
    wrapper = get_wrapper(name)
    return result(wrapper.load() if isinstance(wrapper, ActorWrapper) else wrapper, x)


def test_models_outlive_the_program_that_wrapped_them_and_others_do_not(ended_program: None) -> None:
    expected = result(classifier())
    assert until(lambda: names() == {"actor", "jit actor", "task", "jit task"})
    classes = {"actor": ActorWrapper, "jit actor": JITActorWrapper, "task": TaskWrapper, "jit task": JITTaskWrapper}
    for name, cls in classes.items():
        assert isinstance(get_wrapper(name), cls)
        assert ray.get(found_in_a_task.remote(name, X)) == expected
    worker = Worker.remote()
    ray.get(worker.load.remote(get_wrapper("actor")))
    assert ray.get(worker.do.remote(result)) == expected
    with pytest.raises(ValueError, match=r"no model 'not detached' .* There are: 'actor' in"):
        get_wrapper("not detached")


LOSS_IN_WORDS = ["OwnerDiedError", "the process that wrapped it", "has ended", 'name="...", lifetime="detached"']


def test_without_a_name_the_error_says_which_model_was_lost_why_and_what_to_do(ended_program: None) -> None:
    holder = ray.get_actor("holder")
    kind, message = ray.get(holder.load.remote())
    assert kind == "ModelLostError"
    assert all(part in message for part in ["a pipeline (Classifier)", *LOSS_IN_WORDS])


@pytest.mark.skipif(
    Version(ray.__version__) < Version("2.46"),
    reason="where a worker of another program is idle, Ray before 2.46 ends the node of a detached actor's task",
)
def test_a_task_of_a_model_that_was_lost_fails_with_the_same_words(ended_program: None) -> None:
    holder = ray.get_actor("holder")
    kind, message = ray.get(holder.call.remote(X))
    assert kind == "ModelLostError"
    assert all(part in message for part in ["pipeline: Classifier", *LOSS_IN_WORDS])


def test_a_named_wrapper_pickles_as_its_name_so_that_pickles_pin_nothing() -> None:
    pickles = []
    for wrapper in (ActorWrapper(large(), name="actor"), TaskWrapper(large(1), name="task")):
        for _ in range(3):
            pickles.append(cloudpickle.dumps(wrapper))
    assert all(len(pickled) < 500 for pickled in pickles)
    del wrapper
    assert until(lambda: 2 * LARGE < store_in_use() < 2.1 * LARGE)
    for model in list_models():
        get_wrapper(model.name).free()
    assert until(store_is_empty)
    with pytest.raises(ValueError, match="no model 'actor'"):
        cloudpickle.loads(pickles[0]).load()
    with pytest.raises(ValueError, match="no model 'task'"):
        cloudpickle.loads(pickles[-1])


def test_the_keeper_is_light_and_holds_a_model_that_costs_no_private_memory() -> None:
    first = ActorWrapper(classifier(), name="first", lifetime="detached")
    assert not ask_keeper(lambda _: "torch" in __import__("sys").modules)
    assert ask_keeper(lambda _: __import__("ray").get_runtime_context().get_assigned_resources()) == {}
    model = large()
    result(model, torch.randn(1, 1024))
    pid = keeper_pid()
    driver, before = own_bytes(), own_bytes(pid)
    with ActorWrapper(model, name="second", lifetime="detached"):
        assert own_bytes(pid) - before < 0.1 * LARGE
        assert own_bytes() - driver < 0.1 * LARGE
        assert until(lambda: LARGE < store_in_use() < 1.1 * LARGE)  # the transient copy is gone
    first.free()


def test_equal_weights_are_in_the_store_once_whoever_wraps_them() -> None:
    base, x = large(), torch.randn(2, 1024)

    class Adapted:
        def __init__(self, number: int) -> None:
            self.base = base
            self.adapter = nn.Linear(1024, 64).eval()
            self.number = number

    wrappers = [ActorWrapper(Adapted(number), name=f"adapter {number}") for number in range(4)]
    wrappers.append(TaskWrapper(copy.deepcopy(base), name="base"))
    assert until(lambda: LARGE < store_in_use() < 1.1 * LARGE)
    shown = {model.name: model for model in list_models()}
    assert shown["base"].shares_with == tuple(f"adapter {number}" for number in range(4))
    assert LARGE <= shown["base"].nbytes < shown["adapter 3"].nbytes < 1.1 * LARGE
    for wrapper in wrappers[:-1]:
        wrapper.free()
    assert result(wrappers[-1], x) == result(base.eval(), x)


def test_equal_weights_of_one_pipeline_stay_apart() -> None:
    def both() -> list[nn.Sequential]:
        return [large(), large()]

    wrapper = ActorWrapper(both(), name="both")
    one, other = wrapper.load()
    with torch.no_grad():
        one[0].weight.zero_()
    assert bits(other[0].weight) == bits(large()[0].weight)
    del one, other


def test_a_name_in_use_is_refused_and_replaced_in_one_step_if_told() -> None:
    wrapper = ActorWrapper(classifier(0), name="model")
    with pytest.raises(ValueError, match=r"a model 'model' in the namespace .* already.*replace=True"):
        TaskWrapper(classifier(1), name="model")
    elsewhere = cloudpickle.loads(cloudpickle.dumps(wrapper))
    old = wrapper.load()
    ActorWrapper(classifier(1), name="model", replace=True)
    assert result(old) == result(classifier(0))
    for each in (wrapper, elsewhere, get_wrapper("model")):
        assert result(each.load()) == result(classifier(1))


def test_a_task_wrapper_takes_the_version_that_is_current_when_it_is_unpickled() -> None:
    first = TaskWrapper(classifier(0), name="model")
    pickled = cloudpickle.dumps(first)
    TaskWrapper(classifier(1), name="model", replace=True)
    assert result(first) == result(classifier(0))
    assert result(cloudpickle.loads(pickled)) == result(classifier(1))
    assert result(ray.get(ray.put(first))) == result(classifier(1))


def test_a_wrapper_whose_name_stands_for_another_kind_says_so() -> None:
    actor = ActorWrapper(classifier(), name="model")
    TaskWrapper(classifier(), name="model", replace=True)
    with pytest.raises(TypeError, match=r"wrapped with ActorWrapper, .* with TaskWrapper"):
        actor.load()


def test_a_pipeline_found_by_name_is_as_it_was_wrapped() -> None:
    pipeline = TwoModels()
    pipeline.table = torch.arange(40_000.0)  # bulk bytes beside the models
    found = TaskWrapper(pipeline, name="task", method_names=["describe"]) and get_wrapper("task")
    assert result(found) == result(ActorWrapper(pipeline).load())
    assert bits(found.table) == bits(pipeline.table)
    assert bits(found.head.describe(X, scale=2.0)) == bits(pipeline.head.describe(X, scale=2.0))
    ActorWrapper(pipeline, ["head"], "meta", name="actor")
    kwargs = get_wrapper("actor").constructor_kwargs
    assert (set(kwargs["model_refs"]), kwargs["device"]) == ({"head"}, "meta")
    assert load_pipeline_in_actor(**kwargs).head.out.weight.is_meta


def test_freeing_a_wrapper_empties_the_store_and_using_it_afterwards_is_an_error() -> None:
    x = torch.randn(1, 1024)
    for name in (None, "named"):
        with ActorWrapper(large(), name=name) as actor:
            assert until(lambda: store_in_use() > LARGE)
            loaded = actor.load()
        assert result(loaded, x) == result(large().eval(), x)
        with pytest.raises(RuntimeError, match="This ActorWrapper was freed"):
            actor.load()
        with pytest.raises(RuntimeError, match="This ActorWrapper was freed"):
            actor.constructor_kwargs  # noqa: B018
        del loaded
        assert until(store_is_empty)
        with TaskWrapper(large(), name=name) as task:
            task(x)
        for use in (lambda: task(x), lambda: task.weight, lambda: cloudpickle.dumps(task)):
            with pytest.raises(RuntimeError, match="This TaskWrapper was freed"):
                use()
        assert "freed" in repr(task)
        task.free()
        actor.free()
        assert until(store_is_empty)


class Valve:
    """A pipeline with a `free` of its own, which is a context manager."""

    def __init__(self) -> None:
        self.model = classifier()
        self.is_open = False

    def free(self) -> str:
        return "the pipeline's"

    def __enter__(self) -> Valve:
        self.is_open = True
        return self

    def __exit__(self, *error: object) -> None:
        self.is_open = False


def test_a_pipelines_own_free_and_context_go_before_the_wrappers() -> None:
    wrapper = TaskWrapper(Valve())
    with wrapper as entered:
        assert entered is wrapper
        assert entered.is_open
    assert not wrapper.is_open
    assert wrapper.free() == "the pipeline's"
    assert wrapper.model(X).shape == (3, 4)
    TaskWrapper.free(wrapper)
    with pytest.raises(RuntimeError, match="freed"):
        wrapper.model  # noqa: B018


def test_names_belong_to_namespaces() -> None:
    code = "from ray_zerocopy import ActorWrapper; from test_named_models import classifier\n"
    run_program(code + "ActorWrapper(classifier(1), name='model', lifetime='detached')", namespace="elsewhere")
    with pytest.raises(ValueError, match=r"no model 'model' in the namespace .* 'model' in the namespace 'elsewhere'"):
        get_wrapper("model")
    mine = ActorWrapper(classifier(0), name="model")
    theirs = get_wrapper("model", namespace="elsewhere")
    assert result(mine.load()) == result(classifier(0))
    assert result(theirs.load()) == result(cloudpickle.loads(cloudpickle.dumps(theirs)).load()) == result(classifier(1))


def test_what_cannot_be_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="lifetime= and replace= are for a model that has a name"):
        ActorWrapper(classifier(), lifetime="detached")
    with pytest.raises(ValueError, match="Expected the lifetime 'detached' or None, got 'for ever'"):
        TaskWrapper(classifier(), name="model", lifetime="for ever")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected a string for a name, got 3"):
        TaskWrapper(classifier(), name=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got an empty string"):
        TaskWrapper(classifier(), name="")
    holder = TwoModels()
    holder.reference = ray.put(1)
    with pytest.raises(ValueError, match=r"holds a ray.ObjectRef.*put the object itself"):
        ActorWrapper(holder, name="model", lifetime="detached")
    assert ray.get(ActorWrapper(holder, name="model").load().reference) == 1
    assert names() == {"model"}


def test_twenty_redeployments_leave_the_store_flat() -> None:
    worker, pickles, used = Worker.remote(), [], []
    for number in range(20):
        wrapper = ActorWrapper(large(number % 2), name="model", replace=True)
        pickles.append(cloudpickle.dumps(wrapper))  # as Serve's bindings are
        ray.get(worker.load.remote(wrapper))
        if number % 5 == 4:
            assert until(lambda: store_in_use() < 1.1 * LARGE)
            used.append(store_in_use())
    assert max(used) - min(used) < 1 << 20
    ray.kill(worker)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    address = ray.get_runtime_context().gcs_address
    program = [sys.executable, "-m", "ray_zerocopy", "--address", address, *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=100)


def test_the_command_line_lists_and_frees_models() -> None:
    assert command("list").stdout.split() == [
        "NAME",
        "NAMESPACE",
        "KIND",
        "LIFETIME",
        "MB",
        "CREATED",
        "(UTC)",
        "SHARES",
        "WITH",
    ]
    ActorWrapper(large(), name="a", lifetime="detached")
    TaskWrapper(large(), name="b")
    listed = command("list")
    (_, a, b) = listed.stdout.splitlines()
    assert a.split()[0::2][:1] == ["a"]
    assert [a.split()[i] for i in (2, 3, 4, -1)] == ["ActorWrapper", "detached", "33.6", "b"]
    assert [b.split()[i] for i in (2, 3, 4, -1)] == ["TaskWrapper", "-", "33.6", "a"]
    freed = command("free", "a")
    assert (freed.returncode, freed.stdout.startswith("freed 'a'")) == (0, True)
    unknown = command("free", "a")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "There is no model 'a'" in unknown.stderr
    assert "'b' in" in unknown.stderr
    assert command("explode").returncode == 2
    assert names() == {"b"}


def test_the_package_is_imported_without_torch_and_has_all_its_names() -> None:
    code = "import sys, ray_zerocopy, ray_zerocopy.transport.keeper; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0
    assert set(ray_zerocopy.__all__) <= set(dir(ray_zerocopy))
    assert all(getattr(ray_zerocopy, name) is not None for name in ray_zerocopy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ray_zerocopy.nothing  # noqa: B018


def test_a_keeper_that_died_starts_again_and_what_it_lost_is_said() -> None:
    wrapper = ActorWrapper(classifier(), name="model", lifetime="detached")
    task = TaskWrapper(classifier(), name="task", lifetime="detached")
    loaded, kwargs = wrapper.load(), wrapper.constructor_kwargs
    before = keeper_pid()
    os.kill(before, signal.SIGKILL)
    with pytest.raises(ModelLostError, match=r"no model 'model' .* was lost.*Wrap the model again under this name"):
        wrapper.load()
    assert issubclass(ModelLostError, ray.exceptions.ObjectLostError)
    assert result(loaded) == result(classifier())
    # Ray gives objects out until it has noticed the end of their owner.
    assert until(lambda: failure(lambda: load_pipeline_in_actor(**kwargs))[0] == "ModelLostError")
    with pytest.raises(ModelLostError, match="pipeline: Classifier are lost"):
        task(X)
    ActorWrapper(classifier(), name="model", lifetime="detached")
    assert result(wrapper.load()) == result(classifier())
    assert keeper_pid() != before


def test_a_name_lasts_as_long_as_its_process_after_somebody_killed_the_keeper() -> None:
    ActorWrapper(classifier(), name="first")
    end_keeper()
    wrapper = ActorWrapper(classifier(), name="second")
    assert names() == {"second"}
    assert result(wrapper.load()) == result(classifier())
