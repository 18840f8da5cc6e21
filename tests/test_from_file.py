"""Wrappers that are made from files: straight into the object store, or shared through the file itself."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from keeper_actor import end_keeper, failure, keeper, run_program
from memory import bits, file_behind_weights
from object_store import store_in_use, store_is_empty, until
from pipelines import Classifier, TwoModels, Worker
from ray import cloudpickle
from saved_models import large, output
from torch import nn

from ray_zerocopy import (
    ActorWrapper,
    JITActorWrapper,
    JITTaskWrapper,
    TaskWrapper,
    get_wrapper,
    list_models,
    load,
    load_checkpoint,
    load_pipeline_in_actor,
    save,
)
from ray_zerocopy.transport.keeper import ModelName, free

pytestmark = pytest.mark.usefixtures("cluster")

MB = 1 << 20
X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for model in list_models():
        free(ModelName(model.name, model.namespace))
    gc.collect()
    assert until(store_is_empty)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "model.safetensors")


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier().eval()


def result(model: Any) -> bytes:
    with torch.no_grad():
        return bits(model(X))


def behind_weights(model: Any) -> tuple[str, int]:
    device, inode, _ = file_behind_weights(model)
    return device, inode


def test_all_four_wrappers_are_made_from_files(path: str) -> None:
    pipeline = TwoModels()
    pipeline.encoder.eval(), pipeline.head.eval()
    expected = result(pipeline)
    save(pipeline, path)
    worker = Worker.remote()
    wrapper = ActorWrapper.from_file(path)
    assert repr(wrapper).startswith(f"<ActorWrapper from file {path!r}, shared through the store")
    ray.get(worker.load.remote(wrapper))
    assert ray.get(worker.do.remote(result)) == expected
    assert wrapper.constructor_kwargs["model_refs"].keys() == {"encoder", "head"}
    assert result(load_pipeline_in_actor(**wrapper.constructor_kwargs)) == expected
    tasks = TaskWrapper.from_file(path, method_names=("describe",))
    assert result(tasks) == expected
    assert torch.equal(tasks.head.describe(X), pipeline.head.describe(X))
    with pytest.raises(TypeError, match=r"Expected torch\.jit\.ScriptModule"):
        JITActorWrapper.from_file(path)
    with pytest.raises(TypeError, match=r"Expected torch\.jit\.ScriptModule"):
        JITTaskWrapper.from_file(path)
    save(torch.jit.script(classifier()), path)
    assert result(JITActorWrapper.from_file(path, device="cpu").load()) == result(classifier())
    assert result(JITTaskWrapper.from_file(path)) == result(classifier())


def test_no_wrapper_is_saved_but_what_it_gives_back_is(path: str) -> None:
    actors, tasks = ActorWrapper(TwoModels()), TaskWrapper(TwoModels())
    for given, place in (
        (actors, "pipeline"),
        (tasks, "pipeline"),
        ({"a": [nn.Linear(1, 1), tasks]}, r"pipeline\['a'\]\[1\]"),
    ):
        with pytest.raises(
            TypeError, match=rf"^{place} stands for models in its cluster's object store.*wrapper\.load\(\)"
        ):
            save(given, path)
    pipeline = actors.load()
    save(pipeline, path)
    assert result(load(path)) == result(pipeline)


def test_the_pipelines_own_from_file_is_the_pipelines(path: str) -> None:
    class Reader(nn.Linear):
        def from_file(self) -> str:
            return "mine"

    wrapper = TaskWrapper({"models": [Reader(2, 2)]}["models"][0])
    assert wrapper.from_file() == "mine"
    with pytest.raises(AttributeError):
        TaskWrapper(nn.Linear(2, 2)).from_file  # noqa: B018


def test_neither_wrapper_makes_a_private_copy_in_the_driver(path: str) -> None:
    model = large(100)
    save(model, path)
    expected = output(model)
    ActorWrapper.from_file(path).free()  # what a first time costs once
    TaskWrapper.from_file(path).free()
    for cls in (ActorWrapper, TaskWrapper):
        gc.collect()
        before, peak = anonymous_bytes(), Peak()
        wrapper = cls.from_file(path)
        assert peak.stop() - before < 0.05 * 100 * MB
        assert until(lambda: 100 * MB <= store_in_use() < 105 * MB)
        assert output(wrapper.load() if cls is ActorWrapper else wrapper) == expected
        wrapper.free()
        del wrapper
        gc.collect()
        assert until(store_is_empty)


def test_a_checkpoint_goes_to_the_store_without_a_private_copy(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = large(100)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    expected = output(model)
    with torch.device("meta"):
        empty = large(100)
    ActorWrapper(classifier())
    gc.collect()
    before, peak = anonymous_bytes(), Peak()
    wrapper = ActorWrapper(load_checkpoint(empty, tmp_path))
    assert peak.stop() - before < 0.05 * 100 * MB
    assert output(wrapper.load()) == expected


def anonymous_bytes() -> int:
    """Bytes of this process's memory that are no file's: unlike `private_bytes`, without a file's clean pages."""
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Anonymous:"))


class Peak:
    """The most `anonymous_bytes` from now on, seen often, by a thread."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._peak = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._peak = max(self._peak, anonymous_bytes())
            self._ended.wait(0.002)

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak


def test_workers_share_the_file_itself_where_they_see_it_and_else_the_store(path: str, tmp_path: Path) -> None:
    save(large(8), path)
    expected = output(large(8))
    wrapper = ActorWrapper.from_file(path, share="file")
    assert "shared through the file where a node has it, else the store" in repr(wrapper)
    status = os.stat(path)
    first, second = Worker.remote(), Worker.remote()
    for worker in (first, second):
        ray.get(worker.load.remote(wrapper))
        device, inode = ray.get(worker.do.remote(behind_weights))
        assert (int(device.split(":")[0], 16), inode) == (os.major(status.st_dev), status.st_ino)
        assert ray.get(worker.do.remote(output)) == expected
    os.rename(path, tmp_path / "elsewhere")
    ray.get(first.load.remote(wrapper))
    assert ray.get(first.do.remote(behind_weights))[1] != status.st_ino
    assert ray.get(first.do.remote(output)) == expected
    save(large(12), path)  # another model has the name now
    ray.get(first.load.remote(wrapper))
    assert ray.get(first.do.remote(output)) == expected
    assert ray.get(second.do.remote(output)) == expected
    with pytest.raises(ValueError, match="Expected 'store' or 'file' for share="):
        ActorWrapper.from_file(path, share="nfs")  # type: ignore[arg-type]


def test_a_named_wrapper_from_a_file_is_found_and_pickles_as_its_name(path: str) -> None:
    save(classifier(), path)
    for share in ("store", "file"):
        wrapper = ActorWrapper.from_file(path, name="model", replace=True, share=share)  # type: ignore[arg-type]
        assert len(cloudpickle.dumps(wrapper)) < 500
        assert result(get_wrapper("model").load()) == result(classifier())
    TaskWrapper.from_file(path, name="task")
    assert result(get_wrapper("task")) == result(classifier())
    assert {model.name for model in list_models()} == {"model", "task"}


def test_a_keeper_that_was_lost_publishes_its_models_from_files_again(path: str) -> None:
    save(large(8), path)
    gone = path + ".gone"
    save(large(4), gone)
    program = f"""
from ray_zerocopy import ActorWrapper
from test_from_file import classifier
ActorWrapper.from_file({path!r}, name="from file", lifetime="detached")
ActorWrapper.from_file({path!r}, name="freed", lifetime="detached").free()
ActorWrapper.from_file({path!r}, name="replaced", lifetime="detached")
ActorWrapper(classifier(), name="replaced", lifetime="detached", replace=True)
ActorWrapper.from_file({gone!r}, name="gone", lifetime="detached")
ActorWrapper(classifier(), name="not from a file", lifetime="detached")
"""
    run_program(program)
    loaded = get_wrapper("from file").load()
    ActorWrapper.from_file(path, name="of this process")
    os.remove(gone)
    ray.kill(keeper(), no_restart=False)
    assert until(lambda: failure(get_wrapper, "not from a file")[0] == "ModelLostError")
    again = get_wrapper("from file")
    assert output(again.load()) == output(loaded) == output(large(8))
    assert {model.name for model in list_models()} == {"from file"}
    for name in ("gone", "replaced", "freed", "of this process"):
        assert failure(get_wrapper, name)[0] == "ModelLostError"
    [model] = list_models()
    assert (model.kind, model.lifetime) == ("ActorWrapper", "detached")
    assert 8 * MB <= model.nbytes < 9 * MB
    end_keeper()


def test_what_is_wrong_is_said_before_anything_is_published(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        ActorWrapper.from_file(path)
    save(classifier(), path)
    with pytest.raises(ValueError, match="not a device"):
        ActorWrapper.from_file(path, device="nowhere")
    with pytest.raises(ValueError, match="give name= as well"):
        ActorWrapper.from_file(path, lifetime="detached")
    with pytest.raises(TypeError, match="cannot be called"):
        ActorWrapper.from_file(path)()
    os.truncate(path, 5000)
    for cls in (ActorWrapper, TaskWrapper):
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            cls.from_file(path)
