"""Image files of version 1: the engine agrees with an independent reader, and with what the specification says."""

import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import image_reader
import image_samples
import numpy as np
import pytest
import torch
from image_samples import BAD, GOLDEN, SAMPLES
from safetensors.numpy import load_file

from ray_zerocopy import _engine
from ray_zerocopy.image import freeze_each

golden = pytest.mark.parametrize("name", SAMPLES)


def verdict(path: Path) -> str:
    """The name of the engine's error, or the index."""
    try:
        return _engine.Image.open(str(path)).index
    except _engine.ImageError as error:
        return error.code if str(path) in str(error) else f"a message without the path: {error}"


def verdict_of_the_other_reader(path: Path) -> str | dict:
    try:
        return image_reader.read_image(path)
    except image_reader.ViolationError as violation:
        return violation.error


@golden
def test_a_golden_file_is_what_its_generator_writes(name: str) -> None:
    assert (GOLDEN / name).read_bytes() == bytes(SAMPLES[name]())


@golden
def test_both_readers_find_the_same_in_a_golden_file(name: str) -> None:
    path = GOLDEN / name
    image = _engine.Image.open(str(path))
    index = image_reader.read_image(path)
    assert json.loads(image.index) == index
    assert image.digest == image_reader.digest(image.index.encode())
    assert image.nbytes == path.stat().st_size
    assert image.path == str(path)
    data = image_reader.data_of(path)
    for kind, read in (("segments", image.segment), ("blobs", image.blob)):
        for number, (offset, nbytes, _) in enumerate(index[kind]):
            assert read(number).tobytes() == data[offset : offset + nbytes]
    assert image.verify() == image_reader.damages(path) == []


def test_the_example_in_the_specification_is_a_golden_file() -> None:
    text = (Path(__file__).parents[1] / "docs/image_format.md").read_text()
    assert "\n".join(image_samples.hexdump((GOLDEN / "v1_example.safetensors").read_bytes())) in text


def test_every_error_of_the_specification_has_a_bad_file() -> None:
    text = (Path(__file__).parents[1] / "docs/image_format.md").read_text()
    named = text.split("## Errors\n")[1].split("## ")[0]
    assert {line.split("`")[1] for line in named.splitlines() if line.startswith("| `")} == {
        error for error, _ in BAD.values()
    }


Parts = tuple[str, list[bytes], list[bytes]]
"""An index, segments and blobs."""


def parts_of(name: str) -> Parts:
    """The parts of a golden file."""
    index, data = image_reader.read_image(GOLDEN / name), image_reader.data_of(GOLDEN / name)
    segments, blobs = (
        [data[offset : offset + nbytes] for offset, nbytes, _ in index[kind]] for kind in ("segments", "blobs")
    )
    return json.dumps(index), segments, blobs


def verdict_on_parts(parts: Parts) -> str:
    try:
        return _engine.Image.assemble(*parts).index
    except _engine.ImageError as error:
        return error.code


def verdict_of_the_other_reader_on_parts(parts: Parts) -> str | dict:
    index, segments, blobs = parts
    try:
        return image_reader.read_parts(index.encode(), segments, blobs)
    except image_reader.ViolationError as violation:
        return violation.error


@golden
def test_both_readers_find_the_same_in_the_parts_of_a_golden_file(name: str) -> None:
    index, segments, blobs = parts_of(name)
    image = _engine.Image.assemble(index, segments, blobs)
    assert json.loads(image.index) == image_reader.read_parts(index.encode(), segments, blobs)
    assert [image.segment(number).tobytes() for number in range(image.segment_count)] == segments
    assert [image.blob(number).tobytes() for number in range(image.blob_count)] == blobs
    assert image.verify() == []


def set_to(*path: str | int, value: object) -> Callable[[dict], None]:
    """An edit of an index."""

    def edit(index: dict) -> None:
        *within, last = path
        owner = index
        for key in within:
            owner = owner[key]
        owner[last] = value

    return edit


# Edits of the index of v1_pipelines.safetensors, and the verdict on its parts with that; None: it is an image.
EDITS: dict[str, tuple[Callable[[dict], None], str | None]] = {
    "segments without digests": (lambda index: [segment.__setitem__(2, None) for segment in index["segments"]], None),
    "blobs without digests": (lambda index: [blob.__setitem__(2, None) for blob in index["blobs"]], None),
    "a segment in the middle of a page": (
        set_to("segments", 0, 0, value=1),
        "malformed_index",
    ),  # overlaps with the next
    "a blob between multiples of 64": (set_to("blobs", 0, 0, value=12289), None),
    "a digest that is none": (set_to("segments", 0, 2, value="0"), "malformed_index"),
    "a digest of another kind": (set_to("segments", 0, 2, value=0), "malformed_index"),
    "another length of a segment": (set_to("segments", 0, 1, value=4095), "truncated"),
    "another length of a blob": (set_to("blobs", 0, 1, value=1), "truncated"),
    "a segment of no bytes": (set_to("segments", 0, 1, value=0), "malformed_index"),
    "a segment more": (lambda index: index["segments"].append([99_999, 8, None]), "malformed_index"),
    "a blob less": (lambda index: index["blobs"].pop(), "malformed_index"),
    "a segment before the one before it": (set_to("segments", 1, 0, value=0), "malformed_index"),
    "a block behind its segment": (set_to("blocks", 0, 1, value=4096), "malformed_index"),
    "a block in a segment that does not exist": (set_to("blocks", 0, 0, value=3), "malformed_index"),
    "a root without a segment of its blocks": (set_to("roots", 0, "segments", value=[]), "malformed_index"),
    "two roots with a name": (set_to("roots", 1, "name", value="a"), "duplicate_name"),
    "a reserved name": (
        lambda index: index["tensors"].update({"zerocopy.x": index["tensors"]["a.weight"]}),
        "reserved_name",
    ),
    "a member more": (set_to("more", value=0), "malformed_index"),
    "a shape of 65 dimensions": (set_to("tensors", "a.weight", 1, value=[1] * 65), "too_large"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_both_readers_have_the_same_verdict_on_parts_with_an_edited_index(edit: str) -> None:
    text, segments, blobs = parts_of("v1_pipelines.safetensors")
    index = json.loads(text)
    change, expected = EDITS[edit]
    change(index)
    parts = json.dumps(index), segments, blobs
    if expected is None:
        assert json.loads(verdict_on_parts(parts)) == verdict_of_the_other_reader_on_parts(parts) == index
    else:
        assert verdict_on_parts(parts) == verdict_of_the_other_reader_on_parts(parts) == expected


def test_more_blocks_than_a_file_may_have_travel_in_parts() -> None:
    text, segments, blobs = parts_of("v1_example.safetensors")
    index = json.loads(text)
    index["blocks"] += [[None, 0, 0]] * 1_000_000
    parts = json.dumps(index), segments, blobs
    assert _engine.Image.assemble(*parts).block_count == 1_000_001
    assert len(image_reader.read_parts(parts[0].encode(), segments, blobs)["blocks"]) == 1_000_001


def test_the_other_reader_reads_what_travels_through_the_object_store() -> None:
    parts = freeze_each({"a model": torch.nn.Linear(300, 300), "arrays": [np.arange(9), bytes(7)]}).parts
    assert image_reader.read_parts(parts.index.encode(), parts.segments, parts.blobs)["roots"][0]["name"] == "a model"
    assert [memoryview(segment).nbytes for segment in parts.segments] == [300 * 300 * 4, 300 * 4, 9 * 8]


def test_users_of_the_writer_have_their_metadata() -> None:
    assert _engine.Image.open(str(GOLDEN / "v1_pipelines.safetensors")).metadata == {"license": "apache-2.0"}
    assert _engine.Image.open(str(GOLDEN / "v1_tensors.safetensors")).metadata == {}


@golden
def test_safetensors_reads_a_golden_file_as_it_is(name: str) -> None:
    index = image_reader.read_image(GOLDEN / name)
    found = {name: array for name, array in load_file(GOLDEN / name).items() if not name.startswith("zerocopy.")}
    assert found
    data = image_reader.data_of(GOLDEN / name)
    for tensor, array in found.items():
        _, shape, _, block, offset = index["tensors"][tensor]
        segment, begin, _ = index["blocks"][block]
        at = 0 if segment is None else index["segments"][segment][0] + begin + offset
        assert list(array.shape) == shape
        assert array.tobytes() == data[at : at + array.nbytes]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_the_error_that_the_specification_has_for_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image_samples.bad_file(name))
    expected, _ = BAD[name]
    assert verdict_of_the_other_reader(path) == expected
    assert verdict(path) == expected


def test_both_readers_refuse_the_same_files_among_many_with_small_faults(tmp_path: Path) -> None:
    path = tmp_path / "image"
    chance = random.Random(12)
    refused = 0
    for _ in range(600):
        sample = image_samples.pipelines()
        for name in ("index_text", "header_text"):
            if chance.random() < 0.6:
                setattr(sample, name, _spoiled(chance))
        path.write_bytes(bytes(sample))
        ours, theirs = verdict(path), verdict_of_the_other_reader(path)
        assert isinstance(theirs, str) == (not ours.startswith("{")), f"{ours} and {theirs}: {path.read_bytes()!r}"
        refused += isinstance(theirs, str)
    assert 100 < refused < 600


def _spoiled(chance: random.Random) -> Callable[[str], str]:
    def spoil(text: str) -> str:
        at = chance.randrange(len(text))
        while chance.random() < 0.5 and not text[at].isdigit():
            at = chance.randrange(len(text))
        new = chance.choice(["", text[at] * 2, *'0123456789.-+eE,:[]{}" \\\n\tnull"é\0', chr(ord(text[at]) ^ 1)])
        return text[:at] + new + text[at + 1 :]

    return spoil


def test_damage_is_found_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "image"
    sound = bytes(image_samples.pipelines())
    index = image_reader.read_image(GOLDEN / "v1_pipelines.safetensors")
    begin = len(sound) - len(image_reader.data_of(GOLDEN / "v1_pipelines.safetensors"))
    spoiled = sound
    for at in (index["segments"][1][0] + 4000, index["segments"][2][0], index["blobs"][2][0]):
        spoiled = image_samples.flipped(spoiled, begin + at)
    path.write_bytes(spoiled)
    image = _engine.Image.open(str(path))
    for threads in (1, 2, 64):
        damages = image.verify(threads)
        assert damages == image_reader.damages(path)
        assert [damage.split(" has ")[0] for damage in damages] == ["Segment 1", "Segment 2", "Blob 2"]
    assert image.blob(0).tobytes() == b"skeleton of a"
    for _ in range(2):
        with pytest.raises(_engine.ImageError, match="the digest of its blob 2 is") as raised:
            image.blob(2)
        assert raised.value.code == "damaged"


def test_a_file_is_checked_with_1_to_64_threads() -> None:
    image = _engine.Image.open(str(GOLDEN / "v1_tensors.safetensors"))
    for threads in (0, 65):
        with pytest.raises(ValueError, match=f"{threads} threads"):
            image.verify(threads)


def test_parts_that_do_not_exist_are_an_index_error() -> None:
    image = _engine.Image.open(str(GOLDEN / "v1_pipelines.safetensors"))
    with pytest.raises(IndexError, match="segment 3 is asked for, and the image has 3"):
        image.segment(3)
    with pytest.raises(IndexError, match="blob 5 is asked for, and the image has 5"):
        image.blob(5)


def test_arrays_are_read_only_and_keep_the_file_that_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes((GOLDEN / "v1_pipelines.safetensors").read_bytes())
    segment = _engine.Image.open(str(path)).segment(0)
    expected = segment.tobytes()
    other = tmp_path / "other"
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)
    assert segment.tobytes() == expected
    assert not segment.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        segment[0] = 1


def test_a_view_shares_the_pages_of_the_file_and_keeps_writes_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes((GOLDEN / "v1_tensors.safetensors").read_bytes())
    image = _engine.Image.open(str(path))
    view = _engine.View([image.segment(0)])
    assert view.private_copy_reason is None
    assert view.diverged_bytes() == 0
    window = view.segment(0)
    assert np.array_equal(window, image.segment(0))
    window += 1
    assert not np.array_equal(window, image.segment(0))
    assert image.verify() == []


def test_a_file_that_cannot_be_opened_is_an_os_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        _engine.Image.open(str(tmp_path / "none"))
    assert raised.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError) as raised:
        _engine.Image.open(str(tmp_path))
    assert raised.value.filename == str(tmp_path)


def test_images_that_are_gone_leave_no_descriptor_and_no_mapping() -> None:
    path = GOLDEN / "v1_pipelines.safetensors"

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count(path.name)

    before = held()
    images = [_engine.Image.open(str(path)) for _ in range(10)]
    assert held() == (before[0] + 10, before[1] + 10)
    del images
    assert held() == before


def test_threads_may_read_the_blobs_of_one_image_at_once() -> None:
    image = _engine.Image.open(str(GOLDEN / "v1_pipelines.safetensors"))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(image.blob(2).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [image_samples.pattern(200, 3)] * 8
