"""Programs that were written for ray-zerocopy 0.2.0 as it was published, as its documentation has them, and its names.

What comes before the line that names its guarantees also passes with 0.2.0 itself in the place of this package.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits, weight_bytes
from pipelines import Classifier, TwoModels, Worker, add_one, encoded, encoder, vectors, warm_up_encoder
from torch import nn

import ray_zerocopy
from ray_zerocopy import JITModelWrapper, ModelWrapper, TaskWrapper, benchmark, jit
from ray_zerocopy import nn as rzc_nn

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning"),
]

X = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))


def two_models() -> TwoModels:
    pipeline = TwoModels()
    pipeline.encoder.eval()
    pipeline.head.eval()
    return pipeline


class Scripted:
    """A pipeline with two TorchScript modules."""

    def __init__(self) -> None:
        self.body = torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.Tanh()).eval())
        self.head = torch.jit.trace(nn.Linear(16, 4).eval(), X)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def workers(cluster: None) -> list[Any]:
    return [Worker.remote(warm_up_encoder) for _ in range(2)]


def test_an_actor_loads_a_pipeline_and_needs_no_no_grad() -> None:
    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, model_wrapper: ModelWrapper[TwoModels]) -> None:
            self.pipeline = model_wrapper.load()

        def predict(self, x: torch.Tensor) -> Any:
            return self.pipeline(x).numpy(), self.pipeline.threshold, self.pipeline.encoder.training

    pipeline = TwoModels()
    actor = Actor.remote(ModelWrapper.from_model(pipeline, mode="actor"))
    assert pipeline.encoder.training
    pipeline.encoder.eval()
    output, threshold, training = ray.get(actor.predict.remote(X))
    assert bits(output) == bits(pipeline(X))
    assert (threshold, training) == (0.5, False)


def test_a_wrapper_travels_as_it_is_by_reference_and_taken_apart(workers: list[Any]) -> None:
    pipeline = two_models()
    wrapper = ModelWrapper.from_model(pipeline)
    again = ModelWrapper.deserialize(**wrapper.serialize())
    for worker, sent in zip([*workers, workers[0]], [wrapper, ray.put(wrapper), again], strict=True):
        ray.get(worker.load.remote(sent))
        assert bits(ray.get(worker.do.remote(lambda loaded: loaded(X).numpy()))) == bits(pipeline(X))


@pytest.mark.faults
def test_ray_data_maps_batches_with_actors_that_load_the_wrapper() -> None:
    class Predict:
        def __init__(self, model_wrapper: Any) -> None:
            self.pipeline = model_wrapper.load()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"out": self.pipeline(torch.tensor(batch["data"])).numpy()}

    pipeline = two_models()
    rows = ray.data.from_numpy(X.numpy()).map_batches(
        Predict,
        fn_constructor_kwargs={"model_wrapper": ModelWrapper.from_model(pipeline, mode="actor")},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=2,
    )
    assert bits(np.stack([row["out"] for row in rows.take_all()])) == bits(pipeline(X))


def test_tasks_run_the_models_of_a_pipeline_of_the_same_class_and_need_no_no_grad() -> None:
    pipeline = two_models()
    rewritten = ModelWrapper.for_tasks(pipeline)
    assert type(rewritten) is TwoModels
    assert rewritten.threshold == 0.5
    assert bits(rewritten(X).numpy()) == bits(pipeline(X))
    assert rewritten.calls == 1
    assert bits(rewritten.confident(X)) == bits(pipeline.confident(X))
    assert isinstance(pipeline.head, Classifier)


def test_a_pipeline_that_cannot_be_pickled_works_in_the_process_that_made_it() -> None:
    pipeline = two_models()
    pipeline.lock = threading.Lock()  # type: ignore[attr-defined]
    for made in (ModelWrapper.for_tasks(pipeline), ModelWrapper.from_model(pipeline, mode="actor").load()):
        assert made.lock is pipeline.lock  # type: ignore[attr-defined]
        assert bits(made(X).numpy()) == bits(pipeline(X))


def test_named_methods_run_as_tasks_too() -> None:
    pipeline = two_models()
    rewritten = ModelWrapper.for_tasks(pipeline, method_names=("__call__", "describe", "absent"))
    assert bits(rewritten.head.describe(X, scale=2.0).numpy()) == bits(pipeline.head.describe(X, scale=2.0))
    assert bits(rewritten(X)) == bits(pipeline(X))


def test_a_wrapper_for_tasks_is_loaded_where_it_is_used_and_a_rewritten_pipeline_travels() -> None:
    @ray.remote(num_cpus=0)
    def loads(wrapper: Any, x: torch.Tensor) -> Any:
        return wrapper.load()(x).numpy()

    @ray.remote(num_cpus=0)
    def calls(rewritten: Any, x: torch.Tensor) -> Any:
        return rewritten(x).numpy()

    pipeline = two_models()
    wrapper = ModelWrapper.from_model(pipeline, mode="task")
    assert set(wrapper.model_refs) == {"encoder", "head"}
    assert all(isinstance(ref, ray.ObjectRef) for ref in wrapper.model_refs.values())
    rewritten = wrapper.load()
    assert bits(rewritten(X)) == bits(pipeline(X))
    assert bits(ray.get(loads.remote(wrapper, X))) == bits(pipeline(X))
    assert bits(ray.get(calls.remote(rewritten, X))) == bits(pipeline(X))
    assert bits(ray.get(TaskWrapper(rewritten).remote(X)).numpy()) == bits(pipeline(X))


def test_a_model_alone_is_a_model_again() -> None:
    model = Classifier().eval()
    wrapper = ModelWrapper.from_model(model)
    assert set(wrapper.model_refs) == {"model"}
    assert isinstance(wrapper.load(), Classifier)
    assert bits(wrapper.load()(X).numpy()) == bits(model(X))
    assert bits(wrapper.load(_use_fast_load=True)(X)) == bits(model(X))
    assert bits(ModelWrapper.for_tasks(model)(X).numpy()) == bits(model(X))
    assert bits(ModelWrapper.from_model(model, mode="task").load()(X)) == bits(model(X))


def test_attributes_that_are_named_are_published_alone() -> None:
    pipeline = two_models()
    wrapper = ModelWrapper.from_model(pipeline, mode="actor", model_attr_names=["encoder"])
    assert set(wrapper.model_refs) == {"encoder"}
    assert bits(wrapper.load()(X)) == bits(pipeline(X))
    with pytest.raises(AttributeError, match="absent"):
        ModelWrapper.from_model(pipeline, model_attr_names=["absent"])


def test_what_serialize_returns_are_the_arguments_of_the_class() -> None:
    pipeline = two_models()
    parts = ModelWrapper.from_model(pipeline, mode="task").serialize()
    assert set(parts) == {"skeleton", "model_info", "is_standalone_module", "mode"}
    assert isinstance(parts["skeleton"], TwoModels)
    assert parts["skeleton"].encoder is None
    assert bits(ModelWrapper(**parts).load()(X)) == bits(pipeline(X))


def test_a_mode_that_does_not_exist_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"Invalid mode: .*threads"):
        ModelWrapper.from_model(two_models(), mode="threads")  # type: ignore[arg-type]


def test_the_functions_of_nn_take_a_pipeline_apart_and_put_it_together() -> None:
    @ray.remote(num_cpus=0)
    def loads(skeleton: Any, refs: dict[str, Any], x: torch.Tensor) -> Any:
        return rzc_nn.load_pipeline_for_actors(skeleton, refs, use_fast_load=True)(x).numpy()

    pipeline = two_models()
    skeleton, info = rzc_nn.prepare_pipeline(pipeline, method_names=("describe",))
    assert isinstance(skeleton, TwoModels)
    assert skeleton.encoder is skeleton.head is None
    assert {name: methods for name, (_, methods) in info.items()} == {
        "encoder": {"__call__"},
        "head": {"__call__", "describe"},
    }
    skeleton.threshold = 0.25
    refs = rzc_nn.model_info_to_model_refs(info)
    assert refs == {name: ref for name, (ref, _) in info.items()}
    loaded = rzc_nn.load_pipeline_for_actors(skeleton, refs)
    assert loaded.threshold == 0.25
    assert bits(loaded(X)) == bits(pipeline(X))
    assert bits(ray.get(loads.remote(skeleton, refs, X))) == bits(pipeline(X))
    rewritten = rzc_nn.load_pipeline_for_tasks(skeleton, info)
    assert bits(rewritten(X).numpy()) == bits(pipeline(X))
    assert bits(rewritten.head.describe(X)) == bits(pipeline.head.describe(X))
    assert bits(rzc_nn.rewrite_pipeline(pipeline)(X)) == bits(pipeline(X))


def test_models_that_were_prepared_for_actors_are_not_run_by_tasks() -> None:
    skeleton, info = rzc_nn.prepare_pipeline(two_models(), filter_private=True)
    assert [methods for _, methods in info.values()] == [None, None]
    assert rzc_nn.load_pipeline_for_tasks(skeleton, info).encoder is None


def test_torchscript_pipelines_and_modules_run_as_tasks_and_load_in_actors() -> None:
    @ray.remote(num_cpus=0)
    def loads(wrapper: Any, x: torch.Tensor) -> Any:
        loaded = wrapper.load()
        return isinstance(getattr(loaded, "body", loaded), torch.jit.ScriptModule), loaded(x).detach().numpy()

    pipeline = Scripted()
    for given, mode in [(pipeline, "actor"), (pipeline.body, "actor"), (pipeline, "task"), (pipeline.body, "task")]:
        wrapper = JITModelWrapper.from_model(given, mode=mode)  # type: ignore[arg-type]
        assert set(wrapper.model_refs) == ({"body", "head"} if given is pipeline else {"model"})
        is_module, output = ray.get(loads.remote(wrapper, X))
        assert is_module is (mode == "actor")
        assert bits(output) == bits(given(X))
    rewritten = JITModelWrapper.for_tasks(pipeline)
    assert bits(rewritten(X).numpy()) == bits(pipeline(X))
    assert bits(rewritten.head.forward(X)) == bits(pipeline.head(X))
    again = JITModelWrapper.deserialize(**JITModelWrapper.from_model(pipeline).serialize())
    assert bits(again.load()(X)) == bits(pipeline(X))


def test_the_functions_of_jit_take_a_pipeline_apart_and_put_it_together() -> None:
    pipeline = Scripted()
    skeleton, refs = jit.prepare_pipeline_for_actors(pipeline)
    assert skeleton.body is skeleton.head is None
    assert bits(jit.load_pipeline_for_actors(skeleton, refs)(X)) == bits(pipeline(X))
    assert bits(jit.load_jit_model_in_actor(refs["head"])(X)) == bits(pipeline.head(X))
    ref = jit.prepare_jit_model_for_actors(jit_model=pipeline.body)
    assert bits(jit.load_jit_model_in_actor(ref)(X)) == bits(pipeline.body(X))
    assert bits(jit.load_pipeline_for_actors(skeleton, {**refs, "body": ref})(X)) == bits(pipeline(X))
    skeleton, info = jit.prepare_pipeline_for_tasks(pipeline)
    assert {name: methods for name, (_, methods) in info.items()} == {
        "body": {"__call__", "forward"},
        "head": {"__call__", "forward"},
    }
    assert jit.model_info_to_model_refs(info) == {name: ref for name, (ref, _) in info.items()}
    assert bits(jit.load_pipeline_for_tasks(skeleton, info)(X).numpy()) == bits(pipeline(X))
    assert bits(jit.rewrite_pipeline(pipeline)(X)) == bits(pipeline(X))
    extracted = ray.put(jit.extract_tensors(pipeline.head))
    assert bits(jit.replace_tensors(*ray.get(extracted))(X)) == bits(pipeline.head(X))
    called = jit.tasks.call_model.remote(extracted, args=(X,), kwargs={}, method_name="forward")
    assert bits(ray.get(called)) == bits(pipeline.head(X))
    with pytest.raises(TypeError, match=r"Expected torch\.jit\.ScriptModule"):
        jit.prepare_jit_model_for_actors(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("extract", [jit.extract_tensors, jit.extract_tensors_minimal])
def test_torchscript_modules_that_were_taken_apart_in_training_come_back_in_eval_mode(extract: Any) -> None:
    module = torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5)))
    extracted = extract(module)
    module.eval()
    assert bits(jit.replace_tensors(*extracted)(X)) == bits(module(X))
    assert bits(ray.get(jit.call_model.remote(ray.put(extracted), (X,)))) == bits(module(X))


def test_the_helpers_for_benchmarks_measure_memory_in_mib(
    workers: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.estimate_model_size_mb(nn.Linear(1024, 1024, bias=False)) == 4.0
    assert benchmark.get_memory_mb() > 10
    assert benchmark.get_memory_mb(ray.get(workers[0].pid.remote())) > 10
    assert benchmark.get_memory_mb(2**22 + 1) == 0  # more than there can be
    with benchmark.log_memory("a worker") as sizes:
        pass
    assert sizes()["rss"] > sizes()["uss"] > 10
    with benchmark.monitor_memory_context(interval=0.05, show_parent=True) as stats:
        while not stats["peak_total_uss"]:
            threading.Event().wait(0.05)
    assert stats["peak_total_rss"] > stats["peak_avg_rss"] > 10
    assert stats["uss_available"]
    stop = threading.Event()
    stop.set()
    benchmark.monitor_memory(stop, stats, interval=1.0, show_parent=False)
    assert "a worker" in capsys.readouterr().out


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert ray_zerocopy.__version__ == importlib.metadata.version("ray-zerocopy")


WRAPPER = {
    "": "(skeleton, model_info, is_standalone_module=False, mode='actor')",
    ".from_model": "(model_or_pipeline, mode='actor', model_attr_names=None, method_names=None)",
    ".for_tasks": "(model_or_pipeline, method_names=None)",
    ".deserialize": "(skeleton, model_info, is_standalone_module=False, mode='actor')",
    ".serialize": "(self)",
}
ACTORS = {
    "load_pipeline_for_actors": "(pipeline_skeleton, model_refs, use_fast_load=False)",
}
REWRITE = {
    "prepare_pipeline": "(pipeline, model_attr_names=None, method_names=None, filter_private=False)",
    "model_info_to_model_refs": "(model_info)",
}
TASKS = {
    "load_pipeline_for_tasks": "(pipeline_skeleton, model_info)",
    "rewrite_pipeline": "(pipeline, method_names=('__call__',))",
}
JIT_ACTORS = {
    "prepare_jit_model_for_actors": "(jit_model)",
    "load_jit_model_in_actor": "(model_ref)",
    "prepare_pipeline_for_actors": "(pipeline, model_attr_names=None)",
    "load_pipeline_for_actors": "(pipeline_skeleton, model_refs)",
    "model_info_to_model_refs": "(model_info)",
}
JIT_REWRITE = {
    "extract_tensors": "(m)",
    "extract_tensors_minimal": "(m)",
    "replace_tensors": "(model_bytes, tensors)",
}
JIT_TASKS = {
    "prepare_pipeline_for_tasks": "(pipeline, method_names=None, filter_private=False)",
    "load_pipeline_for_tasks": "(pipeline_skeleton, model_info)",
    "rewrite_pipeline": "(pipeline, method_names=('__call__', 'forward'))",
}
MONITOR = {
    "estimate_model_size_mb": "(model)",
    "get_memory_mb": "(pid=None)",
    "log_memory": "(name)",
    "monitor_memory": "(stop_event, stats, interval=1.0, show_parent=False)",
    "monitor_memory_context": "(interval=1.0, show_parent=False)",
}


def wrapper_named(name: str, load: str) -> dict[str, str]:
    return {f"{name}{method}": signature for method, signature in {**WRAPPER, ".load": load}.items()}


MODEL_WRAPPER = wrapper_named("ModelWrapper", "(self, _use_fast_load=False)")
JIT_MODEL_WRAPPER = wrapper_named("JITModelWrapper", "(self)")
SIGNATURES = {
    "ray_zerocopy": MODEL_WRAPPER | JIT_MODEL_WRAPPER,
    "ray_zerocopy.model_wrappers": MODEL_WRAPPER,
    "ray_zerocopy.wrappers": JIT_MODEL_WRAPPER,
    "ray_zerocopy.nn": ACTORS | REWRITE | TASKS,
    "ray_zerocopy.nn.actors": ACTORS,
    "ray_zerocopy.nn.rewrite": REWRITE,
    "ray_zerocopy.nn.tasks": TASKS,
    "ray_zerocopy.jit": JIT_ACTORS | JIT_REWRITE | JIT_TASKS,
    "ray_zerocopy.jit.actors": JIT_ACTORS,
    "ray_zerocopy.jit.rewrite": JIT_REWRITE,
    "ray_zerocopy.jit.tasks": JIT_TASKS,
    "ray_zerocopy.benchmark": MONITOR,
    "ray_zerocopy.benchmark.monitor": MONITOR,
}
"""The public functions, classes and methods of 0.2.0 and how they are called."""

OTHER_NAMES = {
    "ray_zerocopy": "ModelWrapper.model_refs JITModelWrapper.model_refs __version__",
    "ray_zerocopy.model_wrappers": "TaskModelInfo ActorModelInfo ModelInfo",
    "ray_zerocopy.wrappers": "TaskModelInfo ActorModelInfo ModelInfo",
    "ray_zerocopy.jit": "call_model",
    "ray_zerocopy.jit.tasks": "call_model",
}

RENAMED = {("extract_tensors", "m"): "script_module", ("extract_tensors_minimal", "m"): "script_module"}
"""Parameters for which an interface that is still older has another name, which stays."""


def found(module: str, path: str) -> Any:
    value: Any = importlib.import_module(module)
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("module", SIGNATURES)
def test_every_public_name_is_there_and_is_called_as_before(module: str) -> None:
    for path, written in SIGNATURES[module].items():
        arguments = ast.parse(f"def f{written}: ...").body[0].args  # type: ignore[attr-defined]
        names = [argument.arg for argument in arguments.args]
        defaults = [ast.literal_eval(default) for default in arguments.defaults]
        expected = dict.fromkeys(names, inspect.Parameter.empty) | dict(
            zip(names[len(names) - len(defaults) :], defaults, strict=True)
        )
        parameters = list(inspect.signature(found(module, path)).parameters.values())
        first, more = parameters[: len(names)], parameters[len(names) :]
        for (name, default), parameter in zip(expected.items(), first, strict=True):
            assert parameter.name in (name, RENAMED.get((path, name))), path
            assert parameter.default == default, path
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD, path
        assert all(parameter.default is not parameter.empty for parameter in more), path
    for path in OTHER_NAMES.get(module, "").split():
        found(module, path)


def test_modules_are_attributes_of_the_package_without_an_import_of_their_own() -> None:
    code = "import ray_zerocopy as r; print(r.nn.actors, r.nn.tasks, r.jit.tasks, r.model_wrappers, r.wrappers)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The guarantees of this package, which 0.2.0 did not give.


class Tied:
    """Two models with one weight, in a dtype that numpy lacks; one of the names is private, and one is a property."""

    def __init__(self) -> None:
        self.embed = nn.Embedding(16, 16, dtype=torch.bfloat16)
        self._project = nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
        self._project.weight = self.embed.weight
        self.again = self.embed
        self.seen: list[int] = []

    @property
    def model(self) -> nn.Module:
        return self.embed

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(tokens))
        return self._project(self.embed(tokens))


def test_ties_between_models_dtypes_and_names_of_every_kind_are_kept() -> None:
    pipeline, tokens = Tied(), torch.arange(4)
    loaded = ModelWrapper.from_model(pipeline).load()
    assert loaded._project.weight is loaded.embed.weight
    assert loaded.again is loaded.embed
    assert bits(loaded(tokens)) == bits(pipeline(tokens))
    assert bits(ModelWrapper.for_tasks(pipeline)(tokens)) == bits(pipeline(tokens))


def test_what_is_written_to_one_load_is_in_no_other_and_not_in_the_original() -> None:
    pipeline, tokens = Tied(), torch.arange(4)
    before = bits(pipeline(tokens))
    wrapper = ModelWrapper.from_model(pipeline)
    one, other = wrapper.load(), wrapper.load()
    one.seen.append(7)
    add_one(one.embed)
    assert bits(one(tokens)) != before
    assert bits(other(tokens)) == before
    assert bits(pipeline(tokens)) == before
    assert len(pipeline.seen) == 2
    assert bits(wrapper.load()(tokens)) == before


def test_a_module_whose_submodules_are_published_stays_whole() -> None:
    module = Classifier().eval()
    skeleton, info = rzc_nn.prepare_pipeline(module, method_names=("__call__",))
    assert skeleton.hidden is None
    assert isinstance(module.hidden, nn.Linear)
    loaded = rzc_nn.load_pipeline_for_actors(skeleton, rzc_nn.model_info_to_model_refs(info))
    assert bits(loaded(X)) == bits(module(X))
    assert bits(rzc_nn.load_pipeline_for_tasks(skeleton, info)(X)) == bits(module(X))


def test_a_torchscript_module_is_welcome_in_a_model_wrapper() -> None:
    pipeline = Scripted()
    loaded = ModelWrapper.from_model(pipeline).load()
    assert isinstance(loaded.head, torch.jit.ScriptModule)
    assert bits(loaded(X).numpy()) == bits(pipeline(X))
    assert bits(ModelWrapper.for_tasks(pipeline)(X).numpy()) == bits(pipeline(X))


def test_a_pipeline_of_which_nothing_is_shared_works_and_warns_at_the_callers_line() -> None:
    class Nested:
        def __init__(self) -> None:
            self.stages = [Classifier().eval()]

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return self.stages[0](x)

    pipeline = Nested()
    with pytest.warns(UserWarning, match="No attribute of the Nested is a Module") as caught:
        wrapper = ModelWrapper.from_model(pipeline)
    assert all(warning.filename == __file__ for warning in caught)
    assert wrapper.model_refs == {}
    assert bits(wrapper.load()(X)) == bits(pipeline(X))
    with pytest.warns(UserWarning, match="is a ScriptModule"):
        assert bits(JITModelWrapper.for_tasks(pipeline)(X)) == bits(pipeline(X))


def test_a_class_in_place_of_a_pipeline_is_an_error_that_says_so() -> None:
    with pytest.raises(TypeError, match="got the class Scripted"):
        ModelWrapper.from_model(Scripted)
    with pytest.raises(TypeError, match="got the class Scripted"):
        jit.prepare_pipeline_for_tasks(Scripted)


def deprecated() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Each name that warns, what it says to use instead, and a call of it, on one line."""
    pipeline, scripted = two_models(), Scripted()
    for cls, given, prefix in ((ModelWrapper, pipeline, ""), (JITModelWrapper, scripted, "JIT")):
        name = cls.__name__
        parts = cls.from_model(given).serialize()
        yield f"{name}.from_model", f"{prefix}ActorWrapper(", lambda cls=cls, given=given: cls.from_model(given)
        yield f"{name}.from_model", f"{prefix}TaskWrapper(", lambda cls=cls, given=given: cls.from_model(given, "task")
        yield f"{name}.for_tasks", f"{prefix}TaskWrapper(", lambda cls=cls, given=given: cls.for_tasks(given)
        yield f"{name}.deserialize", f"{prefix}ActorWrapper", lambda cls=cls, parts=parts: cls.deserialize(**parts)
    skeleton, info = rzc_nn.prepare_pipeline(pipeline)
    yield "nn.prepare_pipeline", "ActorWrapper(", lambda: rzc_nn.prepare_pipeline(pipeline)
    yield "nn.load_pipeline_for_actors", "ActorWrapper(", lambda: rzc_nn.load_pipeline_for_actors(skeleton, {})
    yield "nn.load_pipeline_for_tasks", "TaskWrapper(", lambda: rzc_nn.load_pipeline_for_tasks(skeleton, info)
    yield "nn.rewrite_pipeline", "TaskWrapper(", lambda: rzc_nn.rewrite_pipeline(pipeline)
    yield "nn.model_info_to_model_refs", "ActorWrapper(", lambda: rzc_nn.model_info_to_model_refs(info)
    parts = jit.prepare_pipeline_for_actors(scripted)
    parts_for_tasks = jit.prepare_pipeline_for_tasks(scripted)
    yield "jit.prepare_pipeline_for_actors", "JITActorWrapper(", lambda: jit.prepare_pipeline_for_actors(scripted)
    yield "jit.load_pipeline_for_actors", "JITActorWrapper(", lambda: jit.load_pipeline_for_actors(*parts)
    yield "jit.prepare_pipeline_for_tasks", "JITTaskWrapper(", lambda: jit.prepare_pipeline_for_tasks(scripted)
    yield "jit.load_pipeline_for_tasks", "JITTaskWrapper(", lambda: jit.load_pipeline_for_tasks(*parts_for_tasks)
    yield "jit.model_info_to_model_refs", "JITActorWrapper(", lambda: jit.model_info_to_model_refs({})
    stop = threading.Event()
    stop.set()
    yield "benchmark.estimate_model_size_mb", "ActorWrapper(", lambda: benchmark.estimate_model_size_mb(pipeline.head)
    yield "benchmark.get_memory_mb", "memory_stats(", lambda: benchmark.get_memory_mb()
    yield "benchmark.log_memory", "memory_stats(", lambda: benchmark.log_memory("")
    yield "benchmark.monitor_memory", "memory_stats(", lambda: benchmark.monitor_memory(stop, {})
    yield "benchmark.monitor_memory_context", "memory_stats(", lambda: benchmark.monitor_memory_context()


def test_each_name_warns_once_at_the_callers_line_and_says_what_to_use() -> None:
    for name, replacement, call in deprecated():
        filters = list(warnings.filters)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert list(warnings.filters) == filters
        (warning,) = [warning for warning in caught if "ray_zerocopy" in str(warning.message)]
        assert warning.category is DeprecationWarning
        assert str(warning.message).startswith(f"{name} is deprecated: use ray_zerocopy.{replacement}")
        assert (warning.filename, warning.lineno) == (__file__, call.__code__.co_firstlineno)


def test_loading_in_a_worker_does_not_warn() -> None:
    wrappers = [ModelWrapper.from_model(two_models(), mode=mode) for mode in ("actor", "task")]  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrapper in wrappers:
            wrapper.load()(X)
            assert wrapper.serialize()["model_info"]
            assert wrapper.model_refs


@pytest.mark.skipif(sys.platform != "linux", reason="weights are shared on Linux")
def test_actors_that_load_a_model_wrapper_share_its_weights(workers: list[Any]) -> None:
    model, x = encoder(layers=3), vectors()
    weights = weight_bytes(model)
    assert weights > 70 << 20
    wrapper = ModelWrapper.from_model(model, mode="actor")
    before = [ray.get(worker.grown.remote()) for worker in workers]
    ray.get([worker.load.remote(wrapper) for worker in workers])
    one, other = workers
    for worker in workers:
        assert ray.get(worker.do.remote(encoded, x)) == encoded(model, x)
    ray.get(one.do.remote(add_one))
    assert ray.get(one.do.remote(encoded, x)) != encoded(model, x)
    assert ray.get(other.do.remote(encoded, x)) == encoded(model, x)
    private = [ray.get(worker.grown.remote()) - grown for worker, grown in zip(workers, before, strict=True)]
    assert private[0] > 0.9 * weights
    assert private[1] < 0.2 * weights
