"""The older functions for TorchScript, and which of all functions warn."""

import importlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import pytest
import ray
import torch
from memory import bits
from pipelines import Classifier, TwoModels
from torch import nn

import ray_zerocopy
from ray_zerocopy import jit

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]

X = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)).eval())


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16).requires_grad_(False)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        self.calls += 1
        self.linear.weight.add_(1)
        return self.linear(x), self.calls


class Scripted:
    """A pipeline with a TorchScript module and an eager one."""

    def __init__(self) -> None:
        self.scripted = scripted()
        self.eager = Classifier().eval()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.scripted(x) + self.eager(x)


@pytest.mark.parametrize("extract", [jit.extract_tensors, jit.extract_tensors_minimal])
def test_weights_come_out_by_name_and_go_back_without_a_copy(extract: Callable[..., Any]) -> None:
    module = scripted()
    data, tensors = extract(module)
    assert isinstance(data, bytes)
    assert list(tensors) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert bits(tensors["0.weight"]) == bits(getattr(module, "0").weight)
    again = jit.replace_tensors(data, tensors)
    assert isinstance(again, torch.jit.ScriptModule)
    assert bits(again(X)) == bits(module(X))
    assert getattr(again, "0").weight.data_ptr() == tensors["0.weight"].ctypes.data


def test_the_full_bytes_are_a_torchscript_file_and_the_minimal_ones_hold_no_weights() -> None:
    module = torch.jit.script(nn.Linear(256, 256))
    full, tensors = jit.extract_tensors(module)
    minimal, _ = jit.extract_tensors_minimal(module)
    assert bits(torch.jit.load(io.BytesIO(full)).weight) == bits(module.weight)
    assert len(full) > 256 * 256 * 4 > 10 * len(minimal)
    assert bits(tensors["weight"]) not in minimal


def test_constants_of_a_frozen_module_are_among_the_minimal_tensors() -> None:
    module = torch.jit.freeze(torch.jit.script(nn.Linear(64, 64).eval()))
    data, tensors = jit.extract_tensors_minimal(module)
    assert sum(array.nbytes for array in tensors.values()) == (64 * 64 + 64) * 4
    x = torch.randn(2, 64)
    assert bits(jit.replace_tensors(data, tensors)(x)) == bits(module(x))


def test_dtypes_that_numpy_lacks_come_through_ml_dtypes_in_torchscript_too() -> None:
    module = torch.jit.script(nn.Linear(4, 4).to(torch.bfloat16))
    data, tensors = jit.extract_tensors_minimal(module)
    assert tensors["weight"].dtype == ml_dtypes.bfloat16
    assert bits(jit.replace_tensors(data, tensors).weight) == bits(module.weight)


def test_what_is_no_script_module_is_refused() -> None:
    eager = nn.Linear(2, 2)
    for function in (jit.extract_tensors, jit.extract_tensors_minimal, jit.actor.prepare_jit_model_for_actors):
        with pytest.raises(TypeError, match=r"Expected torch\.jit\.ScriptModule, got a Linear"):
            function(eager)
    for function in (jit.actor.rewrite_pipeline_for_actors, jit.ZeroCopyModel.rewrite):
        with pytest.raises(TypeError, match=r"Expected torch\.jit\.ScriptModule somewhere .*found Classifier"):
            function(Classifier())


def test_arrays_of_another_module_are_refused_by_name() -> None:
    data, tensors = jit.extract_tensors_minimal(scripted())
    del tensors["2.bias"]
    with pytest.raises(ValueError, match=r"Expected an array for '2\.bias'"):
        jit.replace_tensors(data, tensors)


@pytest.mark.parametrize("extract", [jit.extract_tensors, jit.extract_tensors_minimal])
def test_call_model_gives_each_call_a_fresh_module(extract: Callable[..., Any]) -> None:
    module = torch.jit.script(Counts())
    ref = ray.put(extract(module))
    with torch.no_grad():
        expected, _ = thrice(extract(module)[0], extract(module)[1])
        for _ in range(4):
            output, calls = ray.get(jit.call_model.options(num_cpus=0).remote(ref, args=(X,)))
            assert calls == 1
            assert bits(output) == bits(expected)


def thrice(data: bytes, tensors: Any) -> Any:
    return jit.replace_tensors(data, {name: array.copy() for name, array in tensors.items()})(X)


def test_rewrite_pipeline_gives_stand_ins_that_run_in_tasks() -> None:
    pipeline = Scripted()
    with pytest.warns(DeprecationWarning, match="JITTaskWrapper"):
        rewritten = jit.rewrite_pipeline(pipeline)
    assert not isinstance(rewritten.scripted, nn.Module)
    assert bits(rewritten(X)) == bits(pipeline(X))
    assert bits(rewritten.scripted.forward(X)) == bits(pipeline.scripted(X))


def test_zero_copy_model_goes_to_a_reference_and_back() -> None:
    pipeline = Scripted()
    ref = jit.ZeroCopyModel.to_object_ref(jit.ZeroCopyModel.rewrite(pipeline).scripted)
    assert bits(jit.ZeroCopyModel.from_object_ref(ref)(X)) == bits(pipeline.scripted(X))
    stored = ray.put(jit.extract_tensors_minimal(pipeline.scripted))
    assert bits(jit.ZeroCopyModel.from_object_ref(stored)(X)) == bits(pipeline.scripted(X))


def test_modules_and_pipelines_prepared_for_actors_load_there() -> None:
    pipeline = Scripted()
    ref = jit.actor.prepare_jit_model_for_actors(pipeline.scripted)
    assert bits(jit.actor.load_jit_model_in_actor(ref, device="cpu")(X)) == bits(pipeline.scripted(X))
    skeleton, refs = jit.actor.rewrite_pipeline_for_actors(pipeline, model_attr_names=["scripted", "eager"])
    assert set(refs) == {"scripted", "eager"}
    assert bits(jit.actor.load_pipeline_in_actor(skeleton, refs, device=None)(X)) == bits(pipeline(X))
    assert bits(jit.actor.load_jit_model_in_actor(refs["scripted"])(X)) == bits(pipeline.scripted(X))


NAMES = {
    "ray_zerocopy": "TaskWrapper JITTaskWrapper ActorWrapper JITActorWrapper rewrite_pipeline call_model "
    "extract_tensors replace_tensors ZeroCopyModel prepare_model_for_actors load_model_in_actor "
    "rewrite_pipeline_for_actors "
    "load_pipeline_in_actor",
    "ray_zerocopy.rewrite": "extract_tensors replace_tensors replace_tensors_direct",
    "ray_zerocopy.invoke": "call_model rewrite_pipeline replace_tensors",
    "ray_zerocopy.actor": "prepare_model_for_actors load_model_in_actor rewrite_pipeline_for_actors "
    "load_pipeline_in_actor",
    "ray_zerocopy.public": "ZeroCopyModel",
    "ray_zerocopy.jit": "extract_tensors extract_tensors_minimal replace_tensors call_model rewrite_pipeline "
    "ZeroCopyModel actor",
    "ray_zerocopy.jit.rewrite": "extract_tensors extract_tensors_minimal replace_tensors",
    "ray_zerocopy.jit.invoke": "call_model rewrite_pipeline",
    "ray_zerocopy.jit.public": "ZeroCopyModel",
    "ray_zerocopy.jit.actor": "prepare_jit_model_for_actors load_jit_model_in_actor rewrite_pipeline_for_actors "
    "load_pipeline_in_actor",
}


@pytest.mark.parametrize("module", NAMES)
def test_every_name_of_the_public_interface_is_where_it_should_be(module: str) -> None:
    for name in NAMES[module].split():
        assert hasattr(importlib.import_module(module), name), name


def ours(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    """The warnings about names of this package that a call gives; the process's filters stay as they are."""
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert list(warnings.filters) == filters
    return [warning for warning in caught if "ray_zerocopy" in str(warning.message)]


def test_four_functions_warn_and_point_at_the_callers_line() -> None:
    pipeline, model = Scripted(), Classifier()
    warn: dict[str, Callable[[], Any]] = {
        "TaskWrapper": lambda: ray_zerocopy.invoke.rewrite_pipeline(pipeline),
        "ActorWrapper": lambda: ray_zerocopy.actor.prepare_model_for_actors(model),
        "JITTaskWrapper": lambda: jit.invoke.rewrite_pipeline(pipeline),
    }
    for replacement, call in warn.items():
        (warning,) = ours(call)
        assert warning.category is DeprecationWarning
        assert f"use ray_zerocopy.{replacement}" in str(warning.message)
        assert (warning.filename, warning.lineno) == (__file__, call.__code__.co_firstlineno)
    (warning,) = ours(lambda: ray_zerocopy.actor.rewrite_pipeline_for_actors(pipeline))
    assert "use ray_zerocopy.ActorWrapper" in str(warning.message)
    assert warning.filename == __file__


def test_no_other_name_warns() -> None:
    pipeline, eager, model, script = Scripted(), TwoModels(), Classifier().eval(), scripted()
    eager.encoder.eval()
    skeleton, arrays = ray_zerocopy.extract_tensors(model)
    data, tensors = jit.extract_tensors(script)
    wrapper = ray_zerocopy.ActorWrapper(eager)
    model_ref = next(iter(wrapper.constructor_kwargs["model_refs"].values()))
    script_ref = jit.actor.prepare_jit_model_for_actors(script)
    prepared = jit.actor.rewrite_pipeline_for_actors(pipeline)
    silent: list[Callable[[], Any]] = [
        lambda: ray_zerocopy.TaskWrapper(eager)(X),
        lambda: ray_zerocopy.JITTaskWrapper(pipeline)(X),
        lambda: ray_zerocopy.ActorWrapper(eager).load(),
        lambda: ray_zerocopy.JITActorWrapper(pipeline).load(),
        lambda: ray_zerocopy.extract_tensors(model),
        lambda: ray_zerocopy.replace_tensors(skeleton, arrays),
        lambda: ray_zerocopy.rewrite.replace_tensors_direct(skeleton, arrays),
        lambda: ray.get(ray_zerocopy.call_model.remote(ray.put((skeleton, arrays)), (X,))),
        lambda: ray_zerocopy.load_model_in_actor(model_ref),
        lambda: ray_zerocopy.load_pipeline_in_actor(**wrapper.constructor_kwargs),
        lambda: ray_zerocopy.ZeroCopyModel.rewrite(eager),
        lambda: jit.extract_tensors(script),
        lambda: jit.extract_tensors_minimal(script),
        lambda: jit.replace_tensors(data, tensors),
        lambda: ray.get(jit.call_model.remote(ray.put((data, tensors)), (X,))),
        lambda: jit.ZeroCopyModel.rewrite(pipeline),
        lambda: jit.actor.load_jit_model_in_actor(script_ref),
        lambda: jit.actor.rewrite_pipeline_for_actors(pipeline),
        lambda: jit.actor.load_pipeline_in_actor(*prepared),
    ]
    for call in silent:
        assert ours(call) == []
