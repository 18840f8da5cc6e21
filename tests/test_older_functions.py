"""The older functions: thin names over the same image and store, with the same virtues."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import pytest
import ray
import torch
from keeper_actor import failure
from memory import bits
from object_store import until
from pipelines import Classifier, TwoModels, Worker
from torch import nn

import ray_zerocopy
from ray_zerocopy import ModelLostError, actor, invoke, public, rewrite

pytestmark = pytest.mark.usefixtures("cluster")


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(50, 16), nn.BatchNorm1d(16), nn.Linear(16, 50, bias=False)).train()
    model[2].weight = model[0].weight
    model.register_parameter("absent", None)
    return model


def test_extract_tensors_splits_a_model_and_changes_nothing_of_it() -> None:
    model = tied()
    skeleton, tensors = rewrite.extract_tensors(model)
    assert not any(module.training for module in skeleton.modules())
    assert all(module.training for module in model.modules())
    assert not any(True for _ in skeleton.parameters())
    assert not any(True for _ in skeleton.buffers())
    assert len(tensors) == len(list(model.modules()))
    assert [set(entry) for entry in tensors] == [{"params", "buffers"}] * len(tensors)
    assert set(tensors[2]["params"]) == {"weight", "bias"}
    assert set(tensors[2]["buffers"]) == {"running_mean", "running_var", "num_batches_tracked"}
    assert bits(tensors[1]["params"]["weight"]) == bits(model[0].weight)
    assert tensors[1]["params"]["weight"] is tensors[3]["params"]["weight"]


@pytest.mark.parametrize("replace", [rewrite.replace_tensors, rewrite.replace_tensors_direct, invoke.replace_tensors])
def test_replace_tensors_puts_them_back_in_place_without_copying(replace: Any) -> None:
    model = tied().eval()
    skeleton, tensors = rewrite.extract_tensors(model)
    replace(skeleton, tensors)
    tokens = torch.arange(8)
    assert bits(skeleton(tokens)) == bits(model(tokens))
    assert skeleton[2].weight is skeleton[0].weight
    assert skeleton[0].weight.data_ptr() == model[0].weight.data_ptr()


def test_tensors_out_of_the_store_are_shared_and_private_on_write() -> None:
    model = nn.Linear(512, 512)
    ref = ray.put(rewrite.extract_tensors(model))
    one, other = (public.ZeroCopyModel.from_object_ref(ref) for _ in range(2))
    with torch.no_grad():
        one.weight.zero_()
    assert bits(other.weight) == bits(model.weight)
    assert bits(ray.get(ref)[1][0]["params"]["weight"]) == bits(model.weight)


def test_dtypes_that_numpy_lacks_come_through_ml_dtypes() -> None:
    model = nn.Linear(4, 4).to(torch.bfloat16)
    model.register_buffer("scale", torch.ones(3).to(torch.float8_e4m3fn))
    skeleton, tensors = rewrite.extract_tensors(model)
    assert tensors[0]["params"]["weight"].dtype == ml_dtypes.bfloat16
    assert tensors[0]["buffers"]["scale"].dtype == ml_dtypes.float8_e4m3fn
    rewrite.replace_tensors(skeleton, tensors)
    assert skeleton.weight.dtype is torch.bfloat16
    assert bits(skeleton.weight) == bits(model.weight)
    assert bits(skeleton.scale) == bits(model.scale)


def test_without_ml_dtypes_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"weight is bfloat16.*pip install 'ray-zerocopy\[ml_dtypes\]'"):
        rewrite.extract_tensors(nn.Linear(2, 2).to(torch.bfloat16))


def test_tensors_of_another_model_are_refused() -> None:
    skeleton, _ = rewrite.extract_tensors(nn.Linear(2, 2))
    _, tensors = rewrite.extract_tensors(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="tensors of 1 submodules for this skeleton, got 2"):
        rewrite.replace_tensors(skeleton, tensors)
    with pytest.raises(TypeError, match=r"Expected a torch\.nn\.Module, got a dict"):
        rewrite.extract_tensors({})  # type: ignore[arg-type]


def test_call_model_runs_any_method_on_a_model_of_its_own() -> None:
    model = Classifier().eval()
    ref = ray.put(ray_zerocopy.extract_tensors(model))
    x = torch.randn(2, 16)
    assert bits(ray.get(ray_zerocopy.call_model.remote(ref, args=(x,)))) == bits(model(x))
    described = invoke.call_model.remote(ref, (x,), {"scale": 2.0}, "describe")
    assert bits(ray.get(described)) == bits(model.describe(x, scale=2.0))


def test_rewrite_pipeline_gives_a_pipeline_of_stand_ins() -> None:
    pipeline = TwoModels()
    with pytest.warns(DeprecationWarning, match="TaskWrapper"):
        rewritten = ray_zerocopy.rewrite_pipeline(pipeline, method_names=("describe",))
    assert isinstance(rewritten, TwoModels)
    assert not isinstance(rewritten.head, nn.Module)
    assert isinstance(pipeline.head, nn.Module)
    x = torch.randn(2, 16)
    pipeline.encoder.eval()
    assert bits(rewritten(x)) == bits(pipeline(x))
    assert bits(rewritten.head.describe(x)) == bits(pipeline.head.describe(x))


def test_zero_copy_model_goes_to_a_reference_and_back() -> None:
    pipeline = TwoModels()
    rewritten = public.ZeroCopyModel.rewrite(pipeline)
    ref = public.ZeroCopyModel.to_object_ref(rewritten.head)
    assert isinstance(ref, ray.ObjectRef)
    x = torch.randn(2, 16)

    @ray.remote
    def run(value: Any) -> torch.Tensor:
        return public.ZeroCopyModel.from_object_ref(value)(x)

    assert bits(ray.get(run.remote(ref))) == bits(pipeline.head(x))
    assert bits(ray.get(run.remote([ref][0]))) == bits(public.ZeroCopyModel.from_object_ref(ref)(x))
    with pytest.raises(TypeError, match="Expected a model of a rewritten pipeline, got a Classifier"):
        public.ZeroCopyModel.to_object_ref(pipeline.head)  # type: ignore[arg-type]


def test_models_and_pipelines_prepared_for_actors_load_there() -> None:
    pipeline = TwoModels()
    pipeline.encoder.eval()
    x = torch.randn(2, 16)
    with pytest.warns(DeprecationWarning, match="ActorWrapper"):
        ref = actor.prepare_model_for_actors(pipeline.head)
    with pytest.warns(DeprecationWarning, match="ActorWrapper"):
        skeleton, refs = actor.rewrite_pipeline_for_actors(pipeline, model_attr_names=["encoder", "head"])
    assert isinstance(ref, ray.ObjectRef)
    assert bits(actor.load_model_in_actor(ref, device="cpu", use_fast_load=True)(x)) == bits(pipeline.head(x))
    assert bits(actor.load_model_in_actor(refs["head"])(x)) == bits(pipeline.head(x))
    assert bits(actor.load_pipeline_in_actor(skeleton, refs)(x)) == bits(pipeline(x))
    assert bits(ray_zerocopy.load_pipeline_in_actor(skeleton, refs, device="cpu")(x)) == bits(pipeline(x))
    with pytest.raises(TypeError, match="Expected a reference to what ray_zerocopy published, got a int"):
        actor.load_model_in_actor(ray.put(3))


def test_loading_a_model_whose_owner_has_ended_is_an_error_that_says_so_and_what_to_do() -> None:
    worker = Worker.remote()
    publish = lambda _: [public.ZeroCopyModel.to_object_ref(public.ZeroCopyModel.rewrite([Classifier()])[0])]  # noqa: E731
    (ref,) = ray.get(worker.do.remote(publish))
    ray.kill(worker)
    assert until(lambda: failure(public.ZeroCopyModel.from_object_ref, ref)[0] != "nothing")  # Ray has noticed
    with pytest.raises(ModelLostError, match=r"OwnerDiedError.*the process that wrapped it.*lifetime=\"detached\""):
        public.ZeroCopyModel.from_object_ref(ref)
