"""What survives freeze and thaw: bit for bit, shared, and as it was tied."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from memory import bits
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.dlpack import from_dlpack

from ray_zerocopy import _engine
from ray_zerocopy.image import freeze, thaw

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.bool,
]


def again(pipeline: Any) -> Any:
    return thaw(freeze(pipeline))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_any_dtype_keeps_its_bits(dtype: torch.dtype) -> None:
    raw = torch.randint(0, 2 if dtype is torch.bool else 255, (4096,), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(16, -1)
    thawed = again({"x": tensor})["x"]
    assert thawed.dtype is dtype
    assert thawed.shape == tensor.shape
    assert bits(thawed) == bits(tensor)


def test_parameters_buffers_and_plain_attributes_keep_bits_and_kinds() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))
            self.frozen = nn.Parameter(torch.randn(8), requires_grad=False)
            self.register_parameter("absent", None)
            self.register_buffer("mean", torch.randn(8))
            self.register_buffer("cache", torch.randn(8), persistent=False)
            self.register_buffer("nothing", None)
            self.plain = torch.randn(8)
            self.listed = [torch.randn(3), {"inner": torch.randn(2)}]

    model = Model()
    thawed = again(model)
    assert isinstance(thawed.weight, nn.Parameter)
    assert thawed.weight.requires_grad
    assert not thawed.frozen.requires_grad
    assert thawed.absent is None
    assert thawed.nothing is None
    assert set(thawed.state_dict()) == set(model.state_dict())
    assert "cache" not in thawed.state_dict()
    for name in ("weight", "frozen", "mean", "cache", "plain"):
        assert bits(getattr(thawed, name)) == bits(getattr(model, name)), name
    assert bits(thawed.listed[0]) == bits(model.listed[0])
    assert bits(thawed.listed[1]["inner"]) == bits(model.listed[1]["inner"])


def test_tied_weights_are_one_again_and_take_space_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(100, 32)
            self.head = nn.Linear(32, 100, bias=False)
            self.head.weight = self.embedding.weight

    image = freeze(Tied())
    thawed = thaw(image)
    assert image.nbytes == 100 * 32 * 4
    assert thawed.head.weight is thawed.embedding.weight


def test_views_are_views_again() -> None:
    whole = torch.arange(100.0)
    pipeline = {"whole": whole, "part": whole[10:20], "transposed": whole.reshape(10, 10).t()}
    thawed = again(pipeline)
    thawed["whole"][12] = -1
    assert thawed["part"][2] == -1
    assert thawed["transposed"].stride() == (1, 10)
    assert thawed["transposed"][2, 1] == -1
    assert whole[12] == 12


def test_a_tensor_and_an_array_over_the_same_memory_share_it_again() -> None:
    array = np.arange(64, dtype=np.float32)
    thawed = again({"array": array, "tensor": torch.from_numpy(array), "tail": torch.from_numpy(array[32:])})
    thawed["array"][40] = -5
    assert thawed["tensor"][40] == -5
    assert thawed["tail"][8] == -5
    assert array[40] == 40


def test_numpy_arrays_keep_bits_strides_dtypes_flags_and_identity() -> None:
    base = np.arange(24, dtype=">i4").reshape(4, 6)
    locked = np.random.default_rng(0).random(5)
    locked.flags.writeable = False
    record = np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])
    objects = np.array([{"a": 1}, None], dtype=object)
    arrays = [
        base,
        base.T,
        base[::-1, ::2],
        base[1:1],
        np.float32(3),
        np.array(7),
        locked,
        record,
        base.astype("M8[s]"),
    ]
    thawed = again({"arrays": arrays, "again": base, "objects": objects})
    for before, after in zip(arrays, thawed["arrays"], strict=True):
        assert after.dtype == before.dtype
        assert bits(after) == bits(before)
    assert thawed["arrays"][2].strides == arrays[2].strides
    assert thawed["again"] is thawed["arrays"][0]
    assert np.shares_memory(thawed["arrays"][0], thawed["arrays"][2])
    assert thawed["arrays"][0].flags.writeable
    assert not thawed["arrays"][6].flags.writeable
    assert thawed["objects"][0] == {"a": 1}


SPARSE = {
    "coo": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
    "bsr": lambda t: t.to_sparse_bsr((2, 2)),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state")
@pytest.mark.parametrize("layout", SPARSE)
def test_sparse_tensors_keep_layout_and_bits_and_are_let_go_of(layout: str) -> None:
    dense = torch.relu(torch.randn(16, 16))
    sparse = SPARSE[layout](dense)
    kept = len(torch._utils._sparse_tensors_to_validate)
    thawed = again([sparse, nn.Parameter(sparse, requires_grad=False)])
    assert thawed[0].layout is sparse.layout
    assert thawed[0].is_coalesced() if layout == "coo" else True
    assert bits(thawed[0].to_dense()) == bits(dense)
    assert bits(thawed[1].to_dense()) == bits(dense)
    assert len(torch._utils._sparse_tensors_to_validate) == kept


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_modules_survive_parametrized(norm: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(8, 8)), nn.Sequential(norm(nn.Conv1d(8, 8, 1)))).eval()
    thawed = again(model)
    x = torch.randn(2, 8)
    assert torch.nn.utils.parametrize.is_parametrized(thawed[0], "weight")
    assert bits(thawed[0](x)) == bits(model[0](x))
    assert bits(thawed[1](x.unsqueeze(-1))) == bits(model[1](x.unsqueeze(-1)))
    thawed[0].weight = torch.ones(8, 8)  # the property's setter is there, too
    assert not torch.equal(thawed[0].weight, model[0].weight)
    assert bits(again(thawed)[0].weight) == bits(thawed[0].weight)
    assert [name for name, _ in thawed.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_hooks_survive() -> None:
    model = nn.Linear(4, 4).eval()
    model.register_forward_hook(lambda module, args, output: output * 2)
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    x = torch.randn(1, 4)
    assert bits(again(model)(x)) == bits(model(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_modules_survive(kind: Any) -> None:
    model = kind(8, 16, num_layers=2, bidirectional=True).eval()
    x = torch.randn(5, 3, 8)
    thawed = again(model)
    assert bits(thawed(x)[0]) == bits(model(x)[0])
    assert thawed._flat_weights[0] is thawed.weight_ih_l0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dynamically_quantized_modules_compute_the_same() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)))
    x = torch.randn(3, 64)
    assert bits(again(model)(x)) == bits(model(x))


def test_quantized_tensors_keep_bits_and_scales() -> None:
    per_tensor = torch.quantize_per_tensor(torch.randn(16), 0.1, 3, torch.qint8)
    scales, zero_points = torch.rand(4) + 0.1, torch.zeros(4, dtype=torch.long)
    per_channel = torch.quantize_per_channel(torch.randn(4, 4), scales, zero_points, 0, torch.qint8)
    for before, after in zip([per_tensor, per_channel], again([per_tensor, per_channel]), strict=True):
        assert after.qscheme() == before.qscheme()
        assert torch.equal(after.int_repr(), before.int_repr())
        assert torch.equal(after.dequantize(), before.dequantize())


class Tagged(torch.Tensor):
    """A subclass with an attribute in its `__dict__`."""


def test_tensor_subclasses_and_their_attributes_survive() -> None:
    tagged = torch.randn(4).as_subclass(Tagged)
    tagged.tag = "mine"
    parameter = nn.Parameter(torch.randn(3))
    parameter.note = ["kept"]
    thawed = again([tagged, parameter])
    assert type(thawed[0]) is Tagged
    assert thawed[0].tag == "mine"
    assert thawed[1].note == ["kept"]
    assert bits(thawed[0].as_subclass(torch.Tensor)) == bits(tagged.as_subclass(torch.Tensor))


def test_conjugated_and_negated_views_survive() -> None:
    z = torch.randn(8, dtype=torch.complex64)
    thawed = again([z.conj(), z.conj().imag, z])
    assert thawed[0].is_conj()
    assert bits(thawed[0]) == bits(z.conj())
    assert bits(thawed[1]) == bits(z.conj().imag)


def test_empty_and_meta_tensors_survive() -> None:
    thawed = again([torch.empty(0, 3), torch.empty(2, 3, device="meta"), np.empty((0, 2)), torch.empty(0).numpy()])
    assert thawed[0].shape == (0, 3)
    assert thawed[1].device.type == "meta"
    assert thawed[2].shape == (0, 2)


def test_models_load_in_eval_mode_and_the_original_keeps_its_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)).train()
    thawed = again({"deep": [model]})["deep"][0]
    assert not any(part.training for part in thawed.modules())
    assert all(part.training for part in model.modules())


def test_two_thaws_of_one_image_are_independent() -> None:
    model = nn.Linear(4, 4)
    original = model.weight.detach().clone()
    image = freeze(model)
    one, other = thaw(image), thaw(image)
    with torch.no_grad():
        one.weight.add_(1)
    assert torch.equal(other.weight, original)
    assert torch.equal(model.weight, original)


def test_a_thawed_model_can_be_trained_moved_cast_and_shared() -> None:
    model = again(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)))
    optimizer = torch.optim.Adam(model.parameters())
    before = bits(model[0].weight)
    model.train()
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    assert bits(model[0].weight) != before
    assert model.to(torch.float64)[0].weight.dtype is torch.float64
    assert model.share_memory()[0].weight.is_shared()
    del model[0]
    assert len(model) == 1


def test_a_device_takes_every_tensor_and_keeps_ties() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight
            self.plain = torch.randn(3)
            self.rnn = nn.LSTM(8, 8)

    thawed = thaw(freeze(Model()), "meta")
    assert {t.device.type for t in (*thawed.parameters(), thawed.plain)} == {"meta"}
    assert thawed.second.weight is thawed.first.weight


def test_what_cannot_be_pickled_is_named_by_its_path() -> None:
    class Stage:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    class Pipeline:
        def __init__(self) -> None:
            self.model = nn.Linear(2, 2)
            self.stages = {"a": [Stage()]}

    with pytest.raises(TypeError, match=r"^pipeline\.stages\['a'\]\[0\]\.lock cannot be pickled: .*lock"):
        freeze(Pipeline())


def test_the_path_goes_through_modules_by_their_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"inner": nn.Linear(2, 2)}))
    model[1]["inner"].lock = threading.Lock()
    with pytest.raises(TypeError, match=r"^pipeline\[1\]\.inner\.lock cannot be pickled"):
        freeze(model)


FREEZE_AND_MEASURE = """
from memory import private_bytes
from torch import nn
from ray_zerocopy.image import freeze

freeze(nn.Linear(4, 4))
model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(32)))
before = private_bytes()
image = freeze(model)
print(image.nbytes, private_bytes() - before)
"""


def test_freeze_copies_no_weights() -> None:
    run = subprocess.run([sys.executable, "-c", FREEZE_AND_MEASURE], capture_output=True, text=True, check=True)
    weights, grown = map(int, run.stdout.split())
    assert weights > 128 << 20
    assert grown < 0.02 * weights


def test_hooks_that_two_modules_share_are_shared_again() -> None:
    original = nn.Linear(4, 4)
    twin = copy.copy(original)  # a module of its own, with the original's dictionaries
    thawed = again({"original": original, "twin": twin})
    called = []
    thawed["original"].register_forward_hook(lambda *_: called.append(1))
    thawed["twin"](torch.ones(4))
    assert called == [1]


def test_modules_without_hooks_in_common_have_none_in_common_again() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    thawed = again(model)
    called = []
    thawed[0].register_forward_hook(lambda *_: called.append(0))
    thawed(torch.ones(4))
    assert called == [0]
    assert vars(thawed).keys() == vars(model).keys()
    assert {name: type(value) for name, value in vars(thawed[1]).items()} == {
        name: type(value) for name, value in vars(model[1]).items()
    }


def test_a_module_from_an_older_torch_gets_what_it_lacks() -> None:
    model = nn.Linear(4, 4)
    del model._forward_hooks_with_kwargs
    thawed = again(model)
    assert len(thawed._forward_hooks_with_kwargs) == 0
    assert torch.equal(thawed(torch.ones(4)), nn.functional.linear(torch.ones(4), model.weight, model.bias))


def test_small_tensors_travel_in_one_segment_and_stay_apart() -> None:
    norms = nn.Sequential(*(nn.BatchNorm1d(48) for _ in range(100)), nn.Linear(512, 512))
    image = freeze(norms)
    assert len(image.segments) == 2
    thawed = thaw(image)
    before = bits(thawed[1].weight)
    with torch.no_grad():
        thawed[0].weight.fill_(7)
    assert bits(thawed[1].weight) == before
    assert {tensor.data_ptr() % 64 for tensor in thawed[:100].state_dict().values()} == {0}
    assert [tensor.untyped_storage().nbytes() for tensor in thawed[0].state_dict().values()] == [192] * 4 + [8]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 5), (5, 1)], ids=str)
def test_tensors_of_unusual_shapes_keep_shape_and_stride(shape: tuple[int, ...]) -> None:
    for tensor in (torch.ones(shape), torch.ones(shape).t() if len(shape) == 2 else torch.ones(shape)):
        parameter = nn.Parameter(tensor, requires_grad=False)
        thawed = again({"tensor": tensor, "parameter": parameter})
        for found in thawed.values():
            assert (found.shape, found.stride(), found.storage_offset()) == (tensor.shape, tensor.stride(), 0)
            assert torch.equal(found, tensor)
        assert type(thawed["parameter"]) is nn.Parameter
        assert thawed["parameter"].untyped_storage().data_ptr() == thawed["tensor"].untyped_storage().data_ptr()


@pytest.mark.parametrize(("offset", "shape"), [(0, (17,)), (4, (4, 4)), (65, ()), (0, (2**62, 4)), (2**63, (1,))])
def test_a_view_gives_no_tensor_beyond_its_segment(offset: int, shape: tuple[int, ...]) -> None:
    view = _engine.View([bytes(64)])
    with pytest.raises(ValueError, match=r"bytes|64 bits"):
        view.tensor(0, offset, 4 * math.prod(shape), shape, 2, 32)
    with pytest.raises(IndexError):
        view.tensor(1, 0, 4, (1,), 2, 32)
    assert torch.equal(from_dlpack(view.tensor(0, 48, 16, (2, 2), 2, 32)), torch.zeros(2, 2))
