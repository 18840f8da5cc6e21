"""`ActorWrapper`: a whole pipeline loaded in an actor, its own to do with what it likes."""

from __future__ import annotations

import concurrent.futures
import copy
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits
from pipelines import Classifier, TwoModels, Worker
from torch import nn

from ray_zerocopy import ActorWrapper
from ray_zerocopy.actor import load_pipeline_in_actor

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def worker(cluster: None) -> Any:
    return Worker.remote()


def test_an_actor_loads_the_pipeline_and_computes_the_same(worker: Any) -> None:
    pipeline = TwoModels()
    ray.get(worker.load.remote(ActorWrapper(pipeline)))
    x = torch.randn(3, 16)
    pipeline.encoder.eval()
    assert bits(ray.get(worker.do.remote(lambda p: p(x)))) == bits(pipeline(x))
    assert torch.equal(ray.get(worker.do.remote(lambda p: p.confident(x))), pipeline.confident(x))


def test_loaded_models_are_in_eval_mode_and_the_wrapped_object_is_not_changed() -> None:
    pipeline = TwoModels()
    pipeline.encoder.train()
    before = copy.deepcopy(pipeline.__dict__)
    loaded = ActorWrapper(pipeline).load()
    assert not loaded.encoder.training
    assert pipeline.encoder.training
    assert pipeline.__dict__.keys() == before.keys()
    assert bits(pipeline.head.out.weight) == bits(before["head"].out.weight)


def test_each_load_is_independent_of_the_others_and_of_the_original() -> None:
    model = nn.Linear(512, 512)
    weight = model.weight.detach().clone()
    wrapper = ActorWrapper(model)
    one, other = wrapper.load(), wrapper.load()
    with torch.no_grad():
        one.weight.add_(1)
    assert torch.equal(one.weight, weight + 1)
    assert torch.equal(other.weight, weight)
    assert torch.equal(wrapper.load().weight, weight)
    assert torch.equal(model.weight, weight)


def test_several_threads_may_load_at_once() -> None:
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(8)))
    wrapper = ActorWrapper(model)
    x = torch.randn(1, 128)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        loaded = list(pool.map(lambda _: wrapper.load(), range(64)))
    assert {bits(model(x)) for model in loaded} == {bits(model(x))}


def test_the_constructor_kwargs_load_the_pipeline_too() -> None:
    pipeline = TwoModels()
    wrapper = ActorWrapper(pipeline, device="cpu", use_fast_load=True)
    kwargs = wrapper.constructor_kwargs
    assert set(kwargs) == {"pipeline_skeleton", "model_refs", "device", "use_fast_load"}
    assert (kwargs["device"], kwargs["use_fast_load"]) == ("cpu", True)
    assert set(kwargs["model_refs"]) == {"encoder", "head"}
    assert all(isinstance(ref, ray.ObjectRef) for ref in kwargs["model_refs"].values())
    x = torch.randn(2, 16)

    @ray.remote
    def run(**kwargs: Any) -> torch.Tensor:
        return load_pipeline_in_actor(**kwargs)(x)

    pipeline.encoder.eval()
    assert bits(ray.get(run.remote(**kwargs))) == bits(pipeline(x))


def test_kwargs_of_something_else_are_refused() -> None:
    kwargs = ActorWrapper(TwoModels()).constructor_kwargs
    with pytest.raises(TypeError, match="Expected the pipeline_skeleton of an actor wrapper, got a dict"):
        load_pipeline_in_actor(**kwargs | {"pipeline_skeleton": {}})
    with pytest.raises(ValueError, match=r"Expected model_refs named \['encoder', 'head'\].*got \['other'\]"):
        load_pipeline_in_actor(**kwargs | {"model_refs": {"other": ray.put(1)}})


def test_model_attr_names_limit_sharing_to_those_attributes() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.large = nn.Linear(1024, 1024, bias=False)
            self.small = nn.Linear(1024, 64, bias=False)

    pipeline = Pipeline()
    wrapper = ActorWrapper(pipeline, model_attr_names=["large"])
    assert set(wrapper.constructor_kwargs["model_refs"]) == {"large"}
    loaded = wrapper.load()
    assert bits(loaded.large.weight) == bits(pipeline.large.weight)
    assert bits(loaded.small.weight) == bits(pipeline.small.weight)
    assert "plasma" in mapping_of(loaded.large.weight)
    assert "plasma" not in mapping_of(loaded.small.weight)


def mapping_of(tensor: torch.Tensor) -> str:
    """The line of `/proc/self/maps` that a tensor's memory lies in."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if low <= tensor.data_ptr() < high:
                return line
    raise AssertionError("mapped nowhere")


def test_a_model_attr_name_that_the_pipeline_lacks_is_named() -> None:
    with pytest.raises(AttributeError, match=r"model_attr_names names 'decoder'.*TwoModels"):
        ActorWrapper(TwoModels(), model_attr_names=["encoder", "decoder"])


def test_a_device_that_torch_does_not_know_is_refused_when_given() -> None:
    with pytest.raises(ValueError, match="'gpu9' is not a device"):
        ActorWrapper(Classifier(), device="gpu9")
    with pytest.raises(ValueError, match="'gpu9' is not a device"):
        ActorWrapper(Classifier()).load("gpu9")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_device_that_the_worker_lacks_is_refused_in_load_with_those_it_has() -> None:
    wrapper = ActorWrapper(Classifier(), device="cuda:3")
    with pytest.raises(RuntimeError, match=r"'cuda:3' is not here: this process has cpu"):
        wrapper.load()
    assert wrapper.load("cpu").out.weight.device.type == "cpu"


def test_load_overrides_the_constructors_device() -> None:
    wrapper = ActorWrapper(Classifier(), device="meta")
    assert wrapper.load().out.weight.is_meta
    assert not wrapper.load(device="cpu").out.weight.is_meta


def test_sharing_reaches_arrays_and_plain_tensors_wherever_they_lie() -> None:
    pipeline = {
        "index": [np.random.default_rng(0).random((256, 256))],
        "model": nn.Linear(256, 256),
        "prototypes": torch.randn(256, 256),
    }
    loaded = ActorWrapper(pipeline).load()
    assert bits(loaded["index"][0]) == bits(pipeline["index"][0])
    for tensor in (torch.from_numpy(loaded["index"][0]), loaded["model"].weight, loaded["prototypes"]):
        assert "plasma" in mapping_of(tensor)
    loaded["index"][0][0, 0] = -1  # and it may be written to
    assert pipeline["index"][0][0, 0] != -1


def test_an_object_reference_in_the_pipeline_is_counted_by_ray(worker: Any) -> None:
    pipeline = {"model": Classifier(), "table": ray.put([1, 2, 3])}
    wrapper = ActorWrapper(pipeline)
    del pipeline
    ray.get(worker.load.remote(wrapper))
    assert ray.get(worker.do.remote(lambda p: ray.get(p["table"]))) == [1, 2, 3]


def test_where_weights_cannot_be_shared_that_is_said_once_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ray_zerocopy.image import freeze
    from ray_zerocopy.transport import store, unshared

    monkeypatch.setattr(unshared, "_said", type(unshared._said)())
    model = nn.Linear(1024, 1024)
    image = freeze(model)  # not published: its bytes are this process's own memory
    monkeypatch.setattr(store, "fetch", lambda source: (image, 0))
    with caplog.at_level(logging.WARNING, logger="ray_zerocopy"):
        first, second = store.load(None).root, store.load(None).root
    assert bits(first.weight) == bits(second.weight) == bits(model.weight)
    assert first.weight.data_ptr() != model.weight.data_ptr()
    assert [record.message for record in caplog.records if "private memory" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1


SCRIPT = """
    import ray, torch
    from ray_zerocopy import ActorWrapper, TaskWrapper

    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(4.0))
        def forward(self, x):
            return (self.weight * x).sum()

    class Pipeline:
        def __init__(self):
            self.model = Mine()
        def __call__(self, x):
            return self.model(x).item()

    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, wrapper):
            self.pipeline = wrapper.load()
        def run(self, x):
            return self.pipeline(x)

    assert not ray.is_initialized()
    wrapper = {wrapper}
    assert ray.is_initialized()
    if isinstance(wrapper, TaskWrapper):
        print("result", wrapper(2.0))
    else:
        actor = Actor.remote(wrapper)
        print("result", ray.get(actor.run.remote(2.0)))
"""


def test_classes_of_a_script_work_in_workers_and_ray_starts_itself(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_ADDRESS": "local"}  # a Ray of its own, whatever else runs on this machine

    def run(wrapper: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / f"{wrapper}.py"
        script.write_text(textwrap.dedent(SCRIPT).replace("{wrapper}", f"{wrapper}(Pipeline())"))
        return subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in pool.map(run, ["ActorWrapper", "TaskWrapper"]):
            assert "result 12.0" in done.stdout, done.stderr
