"""Loading onto a device: what lies there, what stays on the host, and what is tied.

A machine need not have a device for most of it: the host's own memory stands in for a device's. All is uploaded to it
as to any other, and what an upload takes and what shares it can be seen in the storages.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from memory import bits, weight_bytes
from torch import nn

from ray_zerocopy.image import Image, Thawed, freeze, freeze_each, thaw, thaw_in_view
from ray_zerocopy.image.memory import DeviceMemory
from ray_zerocopy.image.thawing import thaw_into

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def uploaded(image: Image, device: torch.device, skeleton: int = 0) -> Thawed:
    """What `thaw_in_view` does for a device, also where the device is the host's memory."""
    bones = image.skeleton(skeleton)
    return thaw_into(DeviceMemory(image, bones, device), bones)


def scripted_tensors(module: torch.jit.ScriptModule) -> Iterator[torch.Tensor]:
    """Parameters, buffers, and constants of the code."""
    yield from module.parameters()
    yield from module.buffers()
    for node in module._c._get_method("forward").graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield node.output().toIValue()


def device_bytes(tensors: Iterator[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once: what their device holds for them."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def small_and_large() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 512), nn.LayerNorm(512), nn.Linear(512, 64)).eval()


def test_a_model_takes_its_own_bytes_on_a_device_and_computes_the_same(device: torch.device) -> None:
    model = small_and_large()
    loaded, view, _ = uploaded(freeze(model), device)
    assert {tensor.device.type for tensor in loaded.parameters()} == {device.type}
    assert device_bytes(loaded.parameters()) == weight_bytes(model)
    assert view is None
    assert torch.allclose(loaded(X.to(device)).cpu(), model(X), atol=1e-5)


def test_one_small_tensor_that_is_kept_keeps_no_others_on_the_device(device: torch.device) -> None:
    image = freeze([torch.full((16,), float(i)) for i in range(1000)])
    assert len(image.segments) == 1
    kept = uploaded(image, device).root[500]
    gc.collect()
    assert kept.untyped_storage().nbytes() == 64
    assert kept.tolist() == [500.0] * 16
    assert not kept._is_view()


def test_tensors_of_one_storage_share_it_on_the_device(device: torch.device) -> None:
    whole = torch.arange(100.0)
    loaded = uploaded(freeze({"whole": whole, "part": whole[10:20], "other": torch.zeros(3)}), device).root
    loaded["whole"][12] = -1
    assert loaded["part"][2] == -1
    assert device_bytes(iter([loaded["whole"], loaded["part"]])) == 400


def test_blocks_that_overlap_share_their_memory_on_the_device_and_no_others_do(device: torch.device) -> None:
    array = np.arange(64, dtype=np.float32)
    tensors = [torch.from_numpy(array), torch.from_numpy(array[32:]), torch.from_numpy(np.zeros(4, np.float32))]
    whole, tail, apart = uploaded(freeze(tensors), device).root
    whole[40] = -5
    assert tail[8] == -5
    assert not apart.any()
    assert (tail.data_ptr() - whole.data_ptr(), array[40]) == (32 * 4, 40)
    assert apart.untyped_storage().nbytes() == 16


def test_a_tensor_in_a_large_array_takes_only_its_own_bytes_on_the_device(device: torch.device) -> None:
    array = np.zeros(100_000, np.float32)
    loaded, view, _ = uploaded(freeze({"array": array, "tensor": torch.from_numpy(array[:16])}), device)
    assert loaded["tensor"].untyped_storage().nbytes() == 64
    assert view is not None
    loaded["array"][0] = 1  # a copy, as everything that moves to a device is
    assert loaded["tensor"][0] == 0


@pytest.mark.parametrize("place", ["cpu", "meta", *DEVICES[1:]])
def test_arrays_stay_on_the_host_and_only_they_are_mapped(place: str) -> None:
    array = np.arange(20_000, dtype=np.float32)
    image = freeze({"model": small_and_large(), "array": array, "bytes": bytearray(b"b" * 100_000)})
    loaded, view, _ = uploaded(image, torch.device(place))
    assert view is not None
    assert array.nbytes <= view.nbytes <= array.nbytes + 100_000
    assert bits(loaded["array"]) == bits(array)
    loaded["array"][0] = -1
    assert array[0] == 0


def test_a_load_onto_a_device_without_arrays_maps_nothing() -> None:
    image = freeze({"model": small_and_large()})
    thawed = thaw_in_view(image, "meta")
    assert thawed.view is None
    assert device_bytes(thawed.root["model"].parameters()) == weight_bytes(small_and_large())


def test_a_root_uploads_nothing_of_the_others(device: torch.device) -> None:
    shared = np.zeros(1000, np.float32)
    image = freeze_each({"one": torch.from_numpy(shared), "other": torch.from_numpy(shared[:10])})
    assert uploaded(image, device, 1).root.untyped_storage().nbytes() == 40


def test_a_script_module_takes_its_own_bytes_on_a_device(device: torch.device) -> None:
    model = torch.jit.script(small_and_large())
    loaded = uploaded(freeze(model), device).root
    assert {tensor.device.type for tensor in loaded.parameters()} == {device.type}
    assert device_bytes(scripted_tensors(loaded)) == weight_bytes(model)
    assert torch.allclose(loaded(X.to(device)).cpu(), model(X), atol=1e-5)


def test_weights_that_eager_scripted_and_frozen_modules_share_are_shared_on_the_device(device: torch.device) -> None:
    eager = nn.Linear(64, 64).eval()
    pipeline = {
        "eager": eager,
        "scripted": torch.jit.script(eager),
        "frozen": torch.jit.freeze(torch.jit.script(eager)),
    }
    image = freeze_each({"all": pipeline, **pipeline})
    loaded = uploaded(image, device).root
    tensors = [
        *loaded["eager"].parameters(),
        *scripted_tensors(loaded["scripted"]),
        *scripted_tensors(loaded["frozen"]),
    ]
    assert len(tensors) == 6
    assert device_bytes(iter(tensors)) == weight_bytes(eager)
    with torch.no_grad():
        loaded["eager"].weight.zero_()
        loaded["eager"].bias.fill_(7)
        x = X.to(device)
        assert bits(loaded["scripted"](x).cpu()) == bits(loaded["frozen"](x).cpu()) == bits(torch.full((3, 64), 7.0))
    assert eager.weight.any()


class Holds(nn.Module):
    """Tensors in every place that TorchScript has for them, all of one storage."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(64, 64)
        self.parameter = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("buffer", whole[:8])
        self.plain = whole[8:16]
        self.listed = [whole[16:24], whole[24:32]]
        self.named = {"a": whole[32:40]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.parameter + self.buffer[0] + self.plain[0] + self.listed[1][0] + self.named["a"][0]


def test_tensors_wherever_a_script_module_holds_them_move_and_share_one_storage(device: torch.device) -> None:
    module = torch.jit.script(Holds().eval())
    loaded = uploaded(freeze(module), device).root
    tensors = [loaded.parameter, loaded.buffer, loaded.plain, *loaded.listed, loaded.named["a"]]
    assert device_bytes(iter(tensors)) == 64 * 64 * 4
    assert torch.allclose(loaded(X.to(device)).cpu(), module(X), atol=1e-4)
    loaded.parameter.zero_()
    assert not any(tensor.any() for tensor in tensors)
    assert module.parameter.any()


def test_a_script_module_on_a_device_keeps_nothing_of_the_image(device: torch.device) -> None:
    module = torch.jit.freeze(torch.jit.script(small_and_large()))
    expected = module(X)
    parts = freeze(module).parts
    weights = [bytearray(segment) for segment in parts.segments]
    image = Image.of(replace(parts, segments=tuple(map(memoryview, weights))))
    loaded = uploaded(image, device).root
    for segment in weights:
        segment[:] = bytes(len(segment))
    assert torch.allclose(loaded(X.to(device)).cpu(), expected, atol=1e-5)


def test_a_script_module_with_sparse_and_packed_weights_computes_the_same_on_a_device() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.eye(64).to_sparse())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sparse.mm(self.table, x.t())

    module = torch.jit.script(Sparse())
    assert bits(uploaded(freeze(module), torch.device("cpu")).root(X)) == bits(module(X))


def test_script_modules_load_onto_the_meta_device_and_stay_tied() -> None:
    eager = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    eager[1].weight = eager[0].weight
    loaded = thaw(freeze({"model": torch.jit.script(eager)}), "meta")["model"]
    assert {tensor.device.type for tensor in loaded.parameters()} == {"meta"}
    assert device_bytes(scripted_tensors(loaded)) == weight_bytes(eager)
    assert loaded(torch.empty(3, 64, device="meta")).shape == (3, 64)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_recurrent_and_quantized_modules_load_onto_a_device(device: torch.device) -> None:
    pipeline: dict[str, Any] = {
        "rnn": nn.LSTM(64, 8).eval(),
        "scale": torch.quantize_per_tensor(X, 0.1, 3, torch.qint8),
    }
    loaded = uploaded(freeze(pipeline), device).root
    assert torch.allclose(loaded["rnn"](X.to(device))[0].cpu(), pipeline["rnn"](X)[0], atol=1e-5)
    assert torch.equal(loaded["scale"].cpu().int_repr(), pipeline["scale"].int_repr())
