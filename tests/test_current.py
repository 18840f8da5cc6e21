"""`current()`: the model that a name stands for now, in any number of processes, without asking for it."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import ray
import torch
from keeper_actor import ask_keeper, end_keeper, failure, keeper_pid, run_program
from object_store import store_in_use, until
from pipelines import Classifier, encoded
from ray import cloudpickle
from torch import nn

from ray_zerocopy import ActorWrapper, TaskWrapper, get_wrapper
from ray_zerocopy.transport.current import _changes
from ray_zerocopy.transport.keeper import State

pytestmark = pytest.mark.usefixtures("cluster", "names_end")

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
LARGE = 32 << 20


def classifier(version: int) -> Classifier:
    torch.manual_seed(version)
    return Classifier().eval()


def publish(version: int) -> ActorWrapper[Classifier]:
    return ActorWrapper(classifier(version), name="model", lifetime="detached", replace=True)


def answer(version: int) -> bytes:
    return encoded(classifier(version), X)


@ray.remote(num_cpus=0)
class Replica:
    def __init__(self, wrapper: ActorWrapper[Classifier]) -> None:
        self.wrapper = wrapper

    def answer(self) -> bytes:
        return encoded(self.wrapper.current(), X)


def test_the_model_stays_the_same_object_until_its_name_gets_another_one() -> None:
    wrapper = publish(0)
    first = wrapper.current()
    assert encoded(first, X) == answer(0)
    assert not first.training
    assert until(lambda: wrapper.current() is first)
    assert all(wrapper.current() is first for _ in range(100))
    publish(1)
    assert until(lambda: encoded(wrapper.current(), X) == answer(1), 5)
    assert encoded(first, X) == answer(0)
    assert encoded(get_wrapper("model").current(), X) == answer(1)


def test_other_processes_get_the_new_model_and_never_the_old_one_again() -> None:
    replicas = [Replica.remote(publish(0)) for _ in range(2)]
    assert ray.get([replica.answer.remote() for replica in replicas]) == [answer(0)] * 2
    for version in (1, 2):
        publish(version)
        assert until(lambda v=version: ray.get([r.answer.remote() for r in replicas]) == [answer(v)] * 2, 5)
        assert ray.get([r.answer.remote() for r in replicas for _ in range(10)]) == [answer(version)] * 20


def last_heard() -> State | None:
    """What state of the keeper this process has been told of."""
    return _changes(ray.get_runtime_context().get_worker_id())._seen


def test_nobody_is_asked_while_nothing_changes() -> None:
    wrapper = publish(0)
    loaded = wrapper.current()
    now = ask_keeper(lambda keeper: keeper._state)
    assert until(lambda: wrapper.current() is loaded and last_heard() == now)  # no more answers are on their way
    pid = keeper_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert all(wrapper.current() is loaded for _ in range(100))
    finally:
        os.kill(pid, signal.SIGCONT)


def test_when_the_name_is_freed_the_model_stays_until_the_name_is_given_again() -> None:
    wrapper = publish(0)
    loaded = wrapper.current()
    get_wrapper("model").free()
    assert failure(wrapper.load)[0] == "ValueError"
    assert all(wrapper.current() is loaded for _ in range(10))
    publish(1)
    assert until(lambda: encoded(wrapper.current(), X) == answer(1), 5)


def test_the_loss_of_the_actor_that_keeps_models_leaves_what_is_loaded() -> None:
    wrapper = publish(0)
    loaded = wrapper.current()
    end_keeper()
    assert all(wrapper.current() is loaded for _ in range(10))
    publish(1)
    assert until(lambda: encoded(wrapper.current(), X) == answer(1), 5)


def test_a_model_of_another_kind_under_the_name_is_an_error_that_says_so() -> None:
    wrapper = publish(0)
    wrapper.current()
    TaskWrapper(classifier(1), name="model", replace=True)
    assert until(lambda: failure(wrapper.current)[0] == "TypeError", 5)
    assert "has been replaced by one that is wrapped with TaskWrapper" in failure(wrapper.current)[1]


def test_without_a_name_there_is_one_model_for_each_copy_of_the_wrapper() -> None:
    wrapper = ActorWrapper(classifier(0))
    loaded = wrapper.current()
    assert wrapper.current() is loaded
    other = cloudpickle.loads(cloudpickle.dumps(wrapper))
    assert other.current() is not loaded
    assert encoded(other.current(), X) == answer(0)
    wrapper.free()
    assert failure(wrapper.current)[0] == "RuntimeError"


def test_threads_see_whole_models_and_none_goes_back() -> None:
    wrapper = publish(0)
    versions = {answer(version): version for version in range(4)}
    seen: list[list[int]] = [[] for _ in range(4)]
    stop = threading.Event()

    def ask(answers: list[int]) -> None:
        while not stop.is_set():
            answers.append(versions[encoded(wrapper.current(), X)])

    threads = [threading.Thread(target=ask, args=(answers,)) for answers in seen]
    for thread in threads:
        thread.start()
    for version in (1, 2, 3):
        publish(version)
        assert until(lambda v=version: all(answers and answers[-1] == v for answers in seen), 10)
    stop.set()
    for thread in threads:
        thread.join()
    assert all(answers == sorted(answers) for answers in seen)
    assert all(set(answers) <= {0, 1, 2, 3} for answers in seen)


def test_rollouts_that_keep_a_few_weights_leave_one_version_in_the_store() -> None:
    frozen = nn.Linear(1024, 512, bias=False)  # 2 MB
    for _ in range(4):
        layers = nn.Sequential(frozen, nn.Linear(512, 1024), *(nn.Linear(1024, 1024, bias=False) for _ in range(8)))
        wrapper = ActorWrapper(layers.eval(), name="tuned", lifetime="detached", replace=True)
    x = torch.randn(2, 1024)
    assert encoded(wrapper.load(), x) == encoded(layers, x)
    assert until(lambda: LARGE < store_in_use() < 1.3 * LARGE)
    other = ActorWrapper(frozen, name="frozen", lifetime="detached")
    wrapper.free()
    assert until(lambda: store_in_use() < 0.1 * LARGE)
    assert encoded(other.load(), x) == encoded(frozen, x)


def test_a_program_that_ended_leaves_no_call_with_the_actor_that_keeps_models() -> None:
    publish(0)
    program = """
import torch
from ray_zerocopy import ActorWrapper
ActorWrapper(torch.nn.Linear(4, 4), name="not detached")
"""
    before = calls()
    run_program(program)
    assert until(lambda: calls() == before)
    assert failure(get_wrapper, "not detached")[0] == "ValueError"


def calls() -> int:
    """How many calls wait in the keeper for the ends of programs."""
    return int(ask_keeper(lambda of_keeper: len(of_keeper._pending)))
