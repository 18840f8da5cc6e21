"""What workers keep between task calls: within its bounds, fresh for every call, given up in time."""

import gc
import os
import time
import weakref
from collections.abc import Iterator

import pytest
import ray
import torch
from object_store import store_in_use, store_is_empty, until
from torch import nn

from ray_zerocopy import TaskWrapper
from ray_zerocopy.image import Thawed, freeze, thaw_in_view
from ray_zerocopy.tasks import residents
from ray_zerocopy.tasks.freshness import FreshState
from ray_zerocopy.tasks.torch_mode import TorchMode

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

IDLE_SECONDS = 2.0


class Stateful(nn.Module):
    """Changes itself in every way that there is; what it returns tells whether any of it was left over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(600_000))
        self.register_buffer("seen", torch.zeros(4))
        self.calls = 0
        self.cache: dict[str, torch.Tensor] = {}
        self.history: list[int] = []
        self.child = nn.Linear(2, 2)

    def forward(self, how: str) -> float:
        with torch.no_grad():
            if how == "weight":
                self.weight.add_(1)
            elif how == "buffer":
                self.seen += 1
            elif how == "behind torch's back":
                self.weight.detach().numpy()[:] += 1
            elif how == "data":
                self.weight.data = self.weight.data + 1
            elif how == "counter":
                self.calls += 1
            elif how == "cache":
                self.cache["x"] = torch.ones(1)
            elif how == "list":
                self.history.append(1)
            elif how == "child":
                self.child = nn.Linear(3, 3)
            elif how == "new attribute":
                self.extra = getattr(self, "extra", 0) + 1
            elif how == "hook":
                self.register_forward_hook(lambda *_: 100.0)
            elif how == "gradient":
                self.weight.requires_grad_(False)
        left = [self.weight[0], self.seen[0], self.calls, len(self.cache), len(self.history)]
        left += [self.child.in_features - 2, getattr(self, "extra", 0), not self.weight.requires_grad]
        return float(sum(float(x) for x in left))


class Scaled(nn.Module):
    """Makes a tensor anew when it is loaded, and changes itself, so that a spare is loaded after each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.calls = 0

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self.scale = torch.ones(2)


def test_the_default_dtype_of_a_call_is_not_that_of_a_model_loaded_meanwhile() -> None:
    image = freeze(Scaled())
    kept = residents.Residents(residents.Limits(idle_seconds=IDLE_SECONDS))
    with kept.fresh("a", lambda: thaw_in_view(image)) as model:
        model.calls += 1
    with TorchMode(True, False, None, torch.float64).entered():
        time.sleep(0.3)  # in which the spare would have been loaded
    with kept.fresh("a", None) as model:
        assert (model.scale.dtype, model.calls) == (torch.float32, 0)


def test_of_a_pipelines_versions_the_last_used_one_is_kept() -> None:
    image = freeze(Scaled())
    kept = residents.Residents(residents.Limits(idle_seconds=IDLE_SECONDS))
    keys = [
        residents.Version(b"pipeline", b"1"),
        residents.Version(b"other", b"1"),
        residents.Version(b"pipeline", b"2"),
    ]
    for key in keys:
        with kept.fresh(key, lambda: thaw_in_view(image)):
            pass
    assert [key in kept for key in keys] == [False, True, True]


HOW = [
    "weight",
    "buffer",
    "behind torch's back",
    "data",
    "counter",
    "cache",
    "list",
    "child",
    "new attribute",
    "gradient",
]


class Scripted(nn.Module):
    """The same for TorchScript: an attribute, a tensor attribute, a buffer, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(600_000))
        self.state = torch.zeros(3)
        self.calls = 0
        self.history = [0]

    def forward(self, how: int) -> float:
        if how == 0:
            self.calls += 1
        elif how == 1:
            self.state = self.state + 1
        elif how == 2:
            self.seen.add_(1)
        elif how == 3:
            self.state.add_(1)
        elif how == 4:
            self.history.append(1)
        return float(self.calls + self.state[0] + self.seen[0] + (len(self.history) - 1))


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    environment = {
        "RAY_ZEROCOPY_RESIDENT_MODELS": "4",
        "RAY_ZEROCOPY_RESIDENT_BYTES": str(100 << 20),
        "RAY_ZEROCOPY_RESIDENT_IDLE_SECONDS": str(IDLE_SECONDS),
    }
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=600 << 20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    yield
    ray.shutdown()


@ray.remote
def resident() -> tuple[int, int, int]:
    """This worker's process, and the number and bytes of the models that it keeps."""
    kept = residents.of_this_worker()._kept
    return os.getpid(), len(kept), sum(r.nbytes for r in kept.values())


def of_both() -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for _ in range(20):
        for pid, count, nbytes in ray.get([resident.remote() for _ in range(4)]):
            found[pid] = (count, nbytes)
    return found


@pytest.mark.parametrize("how", HOW)
def test_a_stateful_model_gives_every_call_what_a_fresh_one_would(how: str) -> None:
    wrapped = TaskWrapper(Stateful())
    assert [wrapped(how) for _ in range(6)] == [1.0] * 6
    assert [wrapped("nothing") for _ in range(2)] == [0.0] * 2


@pytest.mark.parametrize("how", HOW)
def test_a_stateful_model_that_was_proved_in_a_pause_between_calls_is_fresh_as_well(how: str) -> None:
    wrapped = TaskWrapper(Stateful())
    for call, expected in (("nothing", 0.0), ("nothing", 0.0), (how, 1.0), (how, 1.0), ("nothing", 0.0)):
        assert wrapped(call) == expected
        time.sleep(10 * residents._PAUSE_SECONDS)


def test_proving_a_model_tells_changed_from_unchanged_and_puts_nothing_back() -> None:
    image = freeze(Stateful())  # 2.4 MB
    resident = residents.Resident(lambda: thaw_in_view(image))
    assert resident.freshen()
    resident.release()
    assert resident.prove()
    shared = not thaw_in_view(image).view.copied_bytes
    assert resident._is_proved == shared  # outside Ray nothing is shared: then every call restores the private copy
    assert resident.freshen()
    resident.model("weight")
    assert resident.prove()  # in use: nothing happens
    resident.release()
    assert resident.prove()  # the next use puts the weights back
    assert not resident._is_proved
    assert resident.model.weight[0] == 1
    assert resident.freshen()
    assert resident.model.weight[0] == 0
    resident.release()
    resident.model.calls += 1
    assert not resident.prove()
    assert not resident.freshen()


def test_a_hook_that_a_call_registers_is_not_there_for_the_next() -> None:
    wrapped = TaskWrapper(Stateful())
    for _ in range(4):
        wrapped("hook")
    assert wrapped("nothing") == 0.0


@pytest.mark.parametrize("how", range(5))
def test_a_stateful_script_module_gives_every_call_what_a_fresh_one_would(how: int) -> None:
    wrapped = TaskWrapper(torch.jit.script(Scripted()))
    assert [wrapped(how) for _ in range(6)] == [1.0] * 6
    assert wrapped(9) == 0.0


@pytest.mark.parametrize("how", range(4))
def test_a_script_modules_attributes_are_put_back_without_loading_it_anew(how: int) -> None:
    state = FreshState(thaw_in_view(freeze(torch.jit.script(Scripted()))))
    state.seal()
    state.model(how)
    assert state.restore()
    assert state.model.calls == 0
    state.model(4)  # a list that grew is not put back
    assert not state.restore()


def test_models_that_do_not_change_are_not_loaded_anew() -> None:
    traced = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).eval(), torch.zeros(1, 4))
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    for model, x in ((traced, torch.zeros(1, 4)), (encoder, torch.zeros(1, 3, 16)), (nn.LSTM(4, 4), torch.zeros(2, 4))):
        state = FreshState(thaw_in_view(freeze(model)))
        state.seal()
        for _ in range(3):
            with torch.no_grad():
                state.model(x)
            assert state.restore(), type(model)


def test_a_failed_call_leaves_nothing_behind() -> None:
    class Fails(Stateful):
        def forward(self, how: str) -> float:
            left = super().forward("counter")
            if how == "fail":
                raise ValueError("as asked")
            return left

    wrapped = TaskWrapper(Fails())
    for _ in range(3):
        with pytest.raises(ValueError, match="as asked"):
            wrapped("fail")
        assert wrapped("pass") == 1.0


def test_a_hundred_wrappers_in_turn_keep_two_workers_within_their_bounds() -> None:
    models = [nn.Linear(1024, 1024, bias=False) for _ in range(4)]  # 4 MB each
    x = torch.randn(1, 1024)
    for round_ in range(25):
        wrappers = [TaskWrapper(model) for model in models]
        for wrapper, model in zip(wrappers, models, strict=True):
            assert torch.equal(wrapper(x), model(x)), round_
    kept = of_both()
    assert 1 <= len(kept) <= 2
    for count, nbytes in kept.values():
        assert count <= 4
        assert nbytes <= 100 << 20


def test_large_models_are_evicted_by_their_bytes() -> None:
    assert until(lambda: all(count == 0 for count, _ in of_both().values()))  # what earlier tests used
    models = [nn.Linear(4096, 3072, bias=False) for _ in range(3)]  # 50 MB each, of 100 MB
    for _ in range(2):
        for model in models:
            TaskWrapper(model)(torch.randn(1, 4096))
    for count, nbytes in of_both().values():
        assert count <= 2
        assert nbytes <= 100 << 20


def test_a_dropped_wrappers_weights_leave_the_store_within_the_idle_time() -> None:
    gc.collect()
    assert until(store_is_empty)
    wrapper = TaskWrapper(nn.Linear(4096, 4096, bias=False))
    wrapper(torch.randn(1, 4096))
    assert until(lambda: store_in_use() > 60e6)
    del wrapper
    gc.collect()
    assert until(store_is_empty, seconds=IDLE_SECONDS + 20)
    assert until(lambda: all(count == 0 for count, _ in of_both().values()), seconds=IDLE_SECONDS + 20)


def test_the_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ZEROCOPY_RESIDENT_MODELS", "3")
    monkeypatch.setenv("RAY_ZEROCOPY_RESIDENT_IDLE_SECONDS", "0.5")
    limits = residents.Limits.from_environment()
    assert (limits.models, limits.idle_seconds) == (3, 0.5)
    assert limits.nbytes > 1 << 30
    monkeypatch.setenv("RAY_ZEROCOPY_RESIDENT_BYTES", "4 GB")
    with pytest.raises(ValueError, match=r"RAY_ZEROCOPY_RESIDENT_BYTES, got '4 GB'"):
        residents.Limits.from_environment()


def test_the_thread_that_looks_after_models_ends_with_the_last() -> None:
    kept = residents.Residents(residents.Limits(models=2, nbytes=1 << 30, idle_seconds=0.2))
    image = freeze(nn.Linear(8, 8))

    def load() -> Thawed:
        return thaw_in_view(image)

    with kept.fresh("a", load) as model:
        first = id(model)
    del model  # who holds a part of a model could tell another from it
    with kept.fresh("a", load) as model:
        assert id(model) == first
    del model
    thread = kept._keeper
    assert thread is not None
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert not kept._kept


def test_an_evicted_model_that_holds_itself_in_a_cycle_is_let_go() -> None:
    kept = residents.Residents(residents.Limits(idle_seconds=0.3))
    model = nn.Linear(8, 8)
    model.itself = [model]  # not a submodule
    image = freeze(model)
    gc.disable()  # as in a worker that is idle
    try:
        with kept.fresh("a", lambda: thaw_in_view(image)) as loaded:
            alive = weakref.ref(loaded)
        thread = kept._keeper
        del loaded
        assert thread is not None
        thread.join(timeout=20)
        assert not thread.is_alive()
        assert alive() is None
    finally:
        gc.enable()


def test_a_model_that_cannot_be_proved_is_given_up_in_time_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: residents.Resident) -> None:
        raise OSError("no descriptors left")

    monkeypatch.setattr(residents.Resident, "prove", fails)
    kept = residents.Residents(residents.Limits(idle_seconds=0.2))
    image = freeze(nn.Linear(8, 8))
    with kept.fresh("a", lambda: thaw_in_view(image)):
        pass
    thread = kept._keeper
    assert thread is not None
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert not kept._kept
    assert kept._keeper is None
