"""Modules that are given the weights of safetensors checkpoints, where these lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from memory import bits
from safetensors.torch import save_file
from saved_models import large, output, processes
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from ray_zerocopy import load_checkpoint, save

MB = 1 << 20


class Tied(nn.Module):
    """Its decoder has the embedding's weights; several dtypes; a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.decoder = nn.Linear(6, 20, bias=False)
        self.decoder.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.randn(3).bfloat16(), requires_grad=False)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.norm(self.embedding(ids))) * self.scale.sum()


def on_meta(make: Any) -> Any:
    with torch.device("meta"):
        return make()


def test_a_module_on_the_meta_device_gets_the_checkpoints_bits_and_its_ties(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = Tied().eval()
    state = original.state_dict()
    del state["decoder.weight"]  # as save_model of safetensors does
    save_file(state, tmp_path / "model.safetensors")
    module = on_meta(Tied)
    assert load_checkpoint(module, tmp_path / "model.safetensors") is module
    module.eval()
    ids = torch.tensor([1, 5, 19])
    with torch.no_grad():
        assert bits(module(ids)) == bits(original(ids))
    assert module.decoder.weight is module.embedding.weight
    assert module.scale.dtype is torch.bfloat16
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in original.parameters()]
    assert module.norm.num_batches_tracked.shape == ()


def test_a_checkpoint_with_both_names_of_tied_weights_ties_them_if_they_are_equal(tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in Tied().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    module = load_checkpoint(on_meta(Tied), tmp_path)
    assert module.decoder.weight is module.embedding.weight
    state["decoder.weight"] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"ties 'decoder\.weight' to another tensor, and .* they differ"):
        load_checkpoint(on_meta(Tied), tmp_path)


def test_a_sharded_checkpoint_is_read_by_its_index_its_directory_or_its_files(tmp_path: Path) -> None:
    model = large(16)
    state = model.state_dict()
    for number, name in enumerate(state):
        save_file({name: state[name]}, tmp_path / f"model-{number}.safetensors")
    files = sorted(tmp_path.glob("*.safetensors"))
    with pytest.raises(ValueError, match=r"several checkpoints.*'model-0\.safetensors'"):
        load_checkpoint(on_meta(lambda: large(16)), tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: f"model-{i}.safetensors" for i, n in enumerate(state)}}))
    for given in (files, index, tmp_path, str(tmp_path)):
        assert output(load_checkpoint(on_meta(lambda: large(16)), given)) == output(model)
    index.write_text(json.dumps({"weight_map": {"0.weight": "model-1.safetensors"}}))
    with pytest.raises(ValueError, match=r"model-1\.safetensors' lacks what the index .* '0\.weight'"):
        load_checkpoint(on_meta(lambda: large(16)), tmp_path)
    index.write_text(json.dumps({"weight_map": {"0.weight": "../model-0.safetensors"}}))
    with pytest.raises(ValueError, match="not beside it"):
        load_checkpoint(on_meta(lambda: large(16)), tmp_path)
    for named in ("..", "", ".", "/etc/passwd"):
        index.write_text(json.dumps({"weight_map": {"0.weight": named}}))
        with pytest.raises(ValueError, match=f"names the file {named!r}, which is not beside it"):
            load_checkpoint(on_meta(lambda: large(16)), tmp_path)
    for text in ("[]", "[" * 100_000, '{"weight_map": {"0.weight": []}}', '{"weight_map": {"0.weight": 5}}'):
        index.write_text(text)
        with pytest.raises(ValueError, match="not the index"):
            load_checkpoint(on_meta(lambda: large(16)), tmp_path)
    index.write_text(json.dumps({"weight_map": {"0.weight": "model-9.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"index\.json' names: .*model-9\.safetensors cannot be opened"):
        load_checkpoint(on_meta(lambda: large(16)), tmp_path)
    with pytest.raises(ValueError, match=r"two tensors '0\.weight', the second in '.*model-0\.safetensors'"):
        load_checkpoint(on_meta(lambda: large(16)), [files[0], files[0]])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(4, 4), "more": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r'(?s)not that of this module.*Missing key.*"bias".*Unexpected key.*"more"'):
        load_checkpoint(nn.Linear(4, 4), path)
    save_file({"weight": torch.zeros(4, 5), "bias": torch.zeros(4)}, path)
    with pytest.raises(ValueError, match="size mismatch for weight"):
        load_checkpoint(nn.Linear(4, 4), path)
    module = nn.Linear(4, 4)
    module.register_buffer("table", torch.zeros(3, device="meta"), persistent=False)
    with pytest.raises(ValueError, match=r"buffers 'table' are on the meta device"):
        load_checkpoint(module, path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(nn.Linear(4, 4), tmp_path / "none.safetensors")
    os.truncate(path, os.path.getsize(path) - 1)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_checkpoint(nn.Linear(4, 4), path)
    path.write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(ValueError, match="no safetensors file"):
        load_checkpoint(nn.Linear(4, 4), path)
    with pytest.raises(FileNotFoundError, match=r"has no file \*\.safetensors"):
        load_checkpoint(nn.Linear(4, 4), tmp_path / "..")


def test_what_is_neither_a_module_nor_a_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(nn.Linear(4, 4).state_dict(), path)
    for module in ({}, nn.Linear):
        with pytest.raises(TypeError, match=r"Expected a torch\.nn\.Module"):
            load_checkpoint(module, path)  # type: ignore[type-var]
    for files in (None, 5, [5]):
        with pytest.raises(TypeError, match="path of a checkpoint's file"):
            load_checkpoint(nn.Linear(4, 4), files)  # type: ignore[arg-type]
    assert load_checkpoint(nn.Linear(4, 4), os.fsencode(path)).weight.shape == (4, 4)


def test_a_file_that_save_made_of_a_module_is_a_checkpoint(tmp_path: Path) -> None:
    model = large(16)
    save(model, tmp_path / "model.safetensors")
    assert output(load_checkpoint(on_meta(lambda: large(16)), tmp_path)) == output(model)


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("also", self.mean)


def test_buffers_that_the_module_ties_stay_tied(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for names in (("mean",), ("also",), ("mean", "also")):
        save_file({name: torch.ones(3) for name in names}, path)
        module = load_checkpoint(on_meta(Buffers), path)
        assert module.mean is module.also
        assert bits(module.mean) == bits(torch.ones(3))


def test_no_tensor_stays_on_the_meta_device_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"0.mean": torch.ones(3)}, path)
    module = on_meta(lambda: nn.Sequential(Buffers()))
    module[0].table = torch.zeros(3, device="meta")
    with pytest.raises(ValueError, match=r"attributes '0\.table' are on the meta device"):
        load_checkpoint(module, path)
    module[0].table = torch.zeros(3)
    assert not load_checkpoint(module, path)[0].also.is_meta


def test_all_dtypes_of_both_and_tensors_that_begin_anywhere_are_read(tmp_path: Path) -> None:
    names = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "float64", "complex64")
    names += ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    module = nn.Module()
    for name in names:
        value = torch.arange(6).reshape(2, 3) % 2
        module.register_buffer(f"as_{name}", value.to(getattr(torch, name)))
    module.register_buffer("empty", torch.empty(0, 3))
    module.register_buffer("scalar", torch.tensor(5.0))
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    expected = {name: bits(value) for name, value in module.state_dict().items()}
    for shift in (0, 1, 3):  # spaces behind the header are valid
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        path.write_bytes(
            (length + shift).to_bytes(8, "little") + content[8 : 8 + length] + b" " * shift + content[8 + length :]
        )
        for name, value in module.state_dict().items():
            setattr(module, name, torch.empty_like(value, device="meta"))
        load_checkpoint(module, path)
        assert {name: bits(value) for name, value in module.state_dict().items()} == expected


def test_processes_share_a_checkpoint_and_do_not_see_each_others_writes(tmp_path: Path) -> None:
    model = large(100)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    load_it = f"""
from memory import private_bytes
from saved_models import large, output
import torch, ray_zerocopy
torch.set_num_threads(1)
output(large(4))
with torch.device("meta"):
    model = large(100)
ray_zerocopy.load_checkpoint
start = private_bytes()
ray_zerocopy.load_checkpoint(model, {str(tmp_path)!r})
output(model)
"""
    with processes(2) as (first, second):
        for process in (first, second):
            assert process.do(load_it) == output(model)
        for process in (first, second):  # a page is private to the only process that has it
            assert process.do("private_bytes() - start") < 0.05 * 100 * MB
        first.do("with torch.no_grad(): model[0].weight.zero_()\n0")
        assert first.do("output(model)") != output(model)
        assert second.do("output(model)") == output(model)


def test_a_module_of_transformers_ties_its_weights_itself(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    original = BertForMaskedLM(config).eval()
    original.save_pretrained(tmp_path)
    module = on_meta(lambda: BertForMaskedLM(config))
    with pytest.raises(ValueError, match="position_ids"):
        load_checkpoint(module, tmp_path)
    for name, buffer in original.named_buffers():
        module.get_submodule(name.rpartition(".")[0]).register_buffer(name.rpartition(".")[2], buffer, persistent=False)
    load_checkpoint(module, tmp_path).eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert bits(module(ids).logits) == bits(original(ids).logits)
    assert module.get_output_embeddings().weight is module.get_input_embeddings().weight
