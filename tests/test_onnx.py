"""ONNX models: their initializers lie in the image, and ONNX Runtime uses them there."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ecosystem_cases import onnx_bytes
from memory import bits
from pipelines import Worker

import ray_zerocopy
from ray_zerocopy import ActorWrapper, OnnxModel, TaskWrapper
from ray_zerocopy.image import freeze, thaw, thaw_in_view
from ray_zerocopy.tasks.freshness import FreshState

WIDTH = 64

ecosystem = pytest.mark.ecosystem


def model_of(
    nodes: Sequence[Any],
    initializers: Sequence[Any],
    *,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    dtype: int = 1,
    shape: Sequence[int] = (WIDTH,),
) -> Any:
    """A model whose inputs and outputs all are of one type and shape."""
    from onnx import helper

    described = [[helper.make_tensor_value_info(name, dtype, shape) for name in names] for names in (inputs, outputs)]
    graph = helper.make_graph(nodes, "graph", *described, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def tensor_of(name: str, value: torch.Tensor, dtype: int) -> Any:
    from onnx import helper

    return helper.make_tensor(name, dtype, value.shape, bytes(value.view(torch.uint8).numpy()), raw=True)


def weights(dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def voice_detector() -> Any:
    """A published model: the weights of Silero VAD lie in the branches of an `If`."""
    import silero_vad

    return OnnxModel(Path(silero_vad.__file__).parent / "data" / "silero_vad.onnx")


def voice() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).standard_normal((1, 576), np.float32)
    return {"input": noise, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16_000)}


def detected(model: Any) -> list[bytes]:
    return [bits(output) for output in model(**voice())]


@ecosystem
def test_a_published_model_gives_one_answer_to_the_bit_in_tasks_in_actors_and_from_a_file(
    cluster: None, tmp_path: Path
) -> None:
    model = voice_detector()
    expected = detected(model)
    assert detected(TaskWrapper(model)) == expected
    worker = Worker.remote()
    ray.get(worker.load.remote(ActorWrapper(model)))
    assert ray.get(worker.do.remote(detected)) == expected
    ray_zerocopy.save({"detector": model}, tmp_path / "model.safetensors")
    assert detected(ray_zerocopy.load(tmp_path / "model.safetensors")["detector"]) == expected


@ecosystem
def test_answers_are_those_of_an_ordinary_session() -> None:
    import onnxruntime

    content = onnx_bytes(WIDTH, 4)
    x = np.random.default_rng(0).standard_normal((3, WIDTH), np.float32)
    [expected] = onnxruntime.InferenceSession(content).run(None, {"x": x})
    model = OnnxModel(content)
    assert np.allclose(model(x), expected, atol=1e-5)
    assert np.array_equal(model(x), model.run(None, {"x": x})[0])
    assert [value.name for value in model.get_inputs()] == ["x"]
    assert [value.name for value in model.get_outputs()] == ["y3"]


@ecosystem
def test_tensors_in_are_tensors_out_and_arrays_in_are_arrays_out() -> None:
    model = OnnxModel(onnx_bytes(WIDTH, 2))
    x = torch.randn(3, WIDTH, requires_grad=True)
    assert isinstance(model(x), torch.Tensor)
    assert isinstance(model(x=x.detach().numpy()), np.ndarray)
    assert bits(model(x)) == bits(model(x.detach().numpy())) == bits(model(x.t().contiguous().t()))


@ecosystem
def test_initializers_are_in_the_image_once_and_running_writes_to_none() -> None:
    model = OnnxModel(onnx_bytes(256, 4))
    image = freeze(model)
    assert 4 * 4 * 256**2 <= image.nbytes <= 4 * 4 * (256**2 + 2 * 256)
    assert len(image.skeleton(0).pickled) < 10_000
    loaded = thaw_in_view(image)
    x = torch.ones(2, 256)
    assert bits(loaded.root(x)) == bits(model(x))
    assert loaded.view is not None
    assert loaded.view.diverged_bytes() == 0
    assert bits(pickle.loads(pickle.dumps(model))(x)) == bits(copy.deepcopy(model)(x)) == bits(model(x))


@ecosystem
def test_a_load_onto_a_device_leaves_initializers_with_the_host() -> None:
    model = OnnxModel(onnx_bytes(WIDTH, 2))
    loaded = thaw(freeze({"onnx": model, "torch": torch.nn.Linear(2, 2)}), "meta")
    assert loaded["torch"].weight.is_meta
    assert bits(loaded["onnx"](torch.ones(1, WIDTH))) == bits(model(torch.ones(1, WIDTH)))


@ecosystem
@pytest.mark.parametrize(("dtype", "number"), [(torch.float16, 10), (torch.bfloat16, 16)])
def test_half_precision_goes_in_stays_and_comes_out(dtype: torch.dtype, number: int) -> None:
    from onnx import helper

    nodes = [helper.make_node("Cast", [name], [f"{name}32"], to=1) for name in ("x", "w")]
    nodes += [helper.make_node("Add", ["x32", "w32"], ["sum"]), helper.make_node("Cast", ["sum"], ["y"], to=number)]
    w = weights(dtype)
    plain = model_of(nodes[:1] + nodes[2:], [tensor_of("w32", w.float(), 1)], dtype=number, shape=(WIDTH, WIDTH))
    halved = model_of(
        [helper.make_node("Identity", ["w"], ["y"])], [tensor_of("w", w, number)], dtype=number, shape=(WIDTH, WIDTH)
    )
    x = weights(dtype, seed=1)
    model = OnnxModel(plain.SerializeToString())
    assert torch.equal(thaw(freeze(model))(x), (x.float() + w.float()).to(dtype))
    image = freeze(OnnxModel(halved.SerializeToString()))
    assert image.nbytes == w.nbytes
    assert torch.equal(thaw(image)(x), w)


@ecosystem
def test_branches_with_weights_of_one_name_keep_their_own() -> None:
    from onnx import helper

    kept = {n: weights(seed=n) for n in (0, 1)}
    branches = {
        name: helper.make_graph(
            [helper.make_node("Mul", ["x", "w"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", 1, (WIDTH, WIDTH))],
            [tensor_of("w", kept[n], 1)],
        )
        for n, name in enumerate(("else_branch", "then_branch"))
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["is_positive"], to=9),
        helper.make_node("If", ["is_positive"], ["y"], **branches),
    ]
    model = thaw(freeze(OnnxModel(model_of(nodes, [], shape=(WIDTH, WIDTH)).SerializeToString())))
    assert torch.equal(model(torch.ones(WIDTH, WIDTH)), kept[1])
    assert torch.equal(model(torch.zeros(WIDTH, WIDTH)), kept[0] * 0)


@ecosystem
def test_weights_in_other_files_are_found_beside_the_model_and_not_beside_bytes(tmp_path: Path) -> None:
    import onnx

    content = onnx_bytes(WIDTH, 2)
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load_from_string(content), path, save_as_external_data=True, location="data", size_threshold=0)
    x = torch.ones(2, WIDTH)
    assert bits(OnnxModel(path)(x)) == bits(OnnxModel(str(path))(x)) == bits(OnnxModel(content)(x))
    with pytest.raises(ValueError, match=r"^Expected an ONNX model in the bytes given; ONNX Runtime says: "):
        OnnxModel(path.read_bytes())


@ecosystem
def test_a_file_has_the_initializers_by_their_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = OnnxModel(onnx_bytes(WIDTH, 2))
    ray_zerocopy.save({"scorer": model}, tmp_path / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    own = model.named_tensors()
    assert own["weight0"].shape == (WIDTH, WIDTH)
    assert all(torch.equal(saved[f"['scorer'].{name}"], tensor) for name, tensor in own.items())


@ecosystem
def test_tasks_keep_a_model_and_load_one_that_draws_random_numbers_anew(cluster: None) -> None:
    from onnx import helper

    assert FreshState(thaw_in_view(freeze(OnnxModel(onnx_bytes(WIDTH, 2))))).obstacle is None
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], seed=1.0),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    model = OnnxModel(model_of(nodes, []).SerializeToString())
    x = torch.zeros(WIDTH)
    first = bits(thaw(freeze(model))(x))
    wrapper = TaskWrapper(model)
    assert [bits(wrapper(x)) for _ in range(3)] == [first] * 3


@ecosystem
def test_a_session_has_as_many_threads_as_torch() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        model = OnnxModel(onnx_bytes(WIDTH, 2))
    finally:
        torch.set_num_threads(threads)
    assert model._session.get_session_options().intra_op_num_threads == 1


@ecosystem
def test_a_wrong_call_names_the_inputs(cluster: None) -> None:
    wrapper = TaskWrapper(OnnxModel(onnx_bytes(WIDTH, 2)))
    x = np.ones((1, WIDTH), np.float32)
    with pytest.raises(TypeError, match=r"the model has the inputs x; got none for x"):
        wrapper()
    with pytest.raises(TypeError, match=r"the model has the inputs x; got 2 positional ones"):
        wrapper(x, x)
    with pytest.raises(TypeError, match=r"the model has the inputs x; 'x' was given twice"):
        wrapper(x, x=x)
    with pytest.raises(TypeError, match=r"the model has the inputs x; 'mask' was given besides"):
        wrapper(x, mask=x)
    with pytest.raises(Exception, match="INVALID_ARGUMENT") as raised:
        wrapper(x.astype(np.float64))
    assert "InvalidArgument" in str(type(raised.value))
    with pytest.raises(TypeError, match=r"ONNX has no tensors of torch\.complex64"):
        wrapper(torch.ones(1, WIDTH, dtype=torch.complex64))


@ecosystem
def test_what_is_no_model_is_refused_with_what_it_is(tmp_path: Path) -> None:
    import onnxruntime

    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        OnnxModel(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ValueError, match=r"^Expected an ONNX model in '.*text\.onnx'; ONNX Runtime says: .*PROTOBUF"):
        OnnxModel(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"^Expected an ONNX model in the bytes given"):
        OnnxModel(b"")
    session = onnxruntime.InferenceSession(onnx_bytes(WIDTH, 2))
    with pytest.raises(TypeError, match=r"its content as bytes, got InferenceSession"):
        OnnxModel(session)
    with pytest.raises(TypeError, match=r"^pipeline\['s'\]\._sess cannot be pickled: .* wrap ray_zerocopy\.OnnxModel"):
        freeze({"s": session})


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_its_packages_the_error_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime") if missing == "onnx" else ("onnxruntime",):
        monkeypatch.setitem(sys.modules, name, None)
    if missing == "onnxruntime":
        pytest.importorskip("onnx")
    with pytest.raises(ImportError, match=rf"^OnnxModel needs {missing}: pip install 'ray-zerocopy\[onnx\]'"):
        OnnxModel(b"")
