"""Image files made by hand, good ones and bad ones, with nothing of the engine.

`python tests/image_samples.py` writes tests/golden/ and the inputs that the engine's fuzz target begins with.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image_reader import ITEM_SIZES, digest

GOLDEN = Path(__file__).with_name("golden")
FUZZ_INPUTS = GOLDEN.parents[1] / "engine/fuzz/image"


class Sample:
    """An image file that is put together last of all, so that a test can spoil any part of it before."""

    def __init__(
        self, segments: list[bytes], blobs: list[bytes], entries: dict[str, Any], index: dict[str, Any]
    ) -> None:
        self.data = bytearray()
        self.parts: dict[str, Any] = {
            "metadata": {"format": "pt", "zerocopy.version": "1"},
            "entries": entries,
            "index": {"segments": [], "blocks": [], "tensors": {}, "blobs": [], "roots": [], "archives": []}
            | {"programs": [], "producer": "by hand"}
            | index,
        }
        for segment in segments:
            whole = segment.ljust(-(-len(segment) // 4096) * 4096, b"\0")
            self.parts["index"]["segments"].append([len(self.data), len(whole), digest(whole)])
            self.data += whole
        for number, blob in enumerate(blobs):
            self.align()
            self.parts["index"]["blobs"].append([len(self.data), len(blob), digest(blob)])
            self._add_bytes(f"zerocopy.blob.{number}", blob)
        self.index_text: Callable[[str], str] = lambda text: text
        self.header: Callable[[dict[str, Any]], None] = lambda header: None
        self.header_text: Callable[[str], str] = lambda text: text
        self.file: Callable[[bytes], bytes] = lambda file: file

    def align(self) -> None:
        self.data += bytes(-len(self.data) % 64)

    def _add_bytes(self, name: str, content: bytes) -> None:
        begin = len(self.data)
        self.data += content
        self.parts["entries"][name] = entry("U8", [len(content)], begin)

    def __bytes__(self) -> bytes:
        index = self.index_text(json.dumps(self.parts["index"], separators=(",", ":"))).encode("utf-8", "surrogatepass")
        self.align()
        self._add_bytes("zerocopy.index", index)
        metadata = {"zerocopy.digest": digest(index)} | self.parts["metadata"]
        header = {"__metadata__": metadata} | self.parts["entries"] | self._padding()
        self.header(header)
        text = self.header_text(json.dumps(header, separators=(",", ":"))).encode("utf-8", "surrogatepass")
        text = text.ljust(-(-(8 + len(text)) // 4096) * 4096 - 8)
        return self.file(struct.pack("<Q", len(text)) + text + self.data)

    def _padding(self) -> dict[str, Any]:
        padding: dict[str, Any] = {}
        reached = 0
        for begin, end in sorted(tuple(entry["data_offsets"]) for entry in self.parts["entries"].values()):
            if begin > reached:
                padding[f"zerocopy.pad.{len(padding)}"] = entry("U8", [begin - reached], reached)
            reached = max(reached, end)
        return padding


def entry(dtype: str, shape: list[int], begin: int) -> dict[str, Any]:
    nbytes = ITEM_SIZES[dtype]
    for length in shape:
        nbytes *= length
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + nbytes]}


def pattern(nbytes: int, seed: int) -> bytes:
    return bytes((seed + 7 * at) % 251 for at in range(nbytes))


def tensors() -> Sample:
    """What a program of C++ may write: tensors and nothing else."""
    small = struct.pack("<6f", 0, 1, 2, -3, 0.5, 1e30).ljust(64, b"\0") + struct.pack("<3q", 1, -2, 2**62)
    return Sample(
        [pattern(65_538, 1).ljust(17 * 4096, b"\0") + small],
        [],
        {
            "embedding": entry("F16", [32_769], 0),
            "weight": entry("F32", [2, 3], 17 * 4096),
            "größe": entry("I64", [3], 17 * 4096 + 64),
        },
        {
            "blocks": [[0, 17 * 4096, 24], [0, 0, 65_538], [0, 17 * 4096 + 64, 24]],
            "tensors": {
                "weight": ["F32", [2, 3], [3, 1], 0, 0],
                "embedding": ["F16", [32_769], [1], 1, 0],
                "größe": ["I64", [3], [1], 2, 0],
            },
        },
    )


def pipelines() -> Sample:
    """Two roots with a block in common, tied tensors, views, overlapping blocks, an empty one, every kind of blob."""
    sample = Sample(
        [struct.pack("<12f", *range(12)), struct.pack("<d", 0.125), pattern(96, 2)],
        [b"skeleton of a", b"skeleton of b", pattern(200, 3), pattern(65, 4), b""],
        {"a.weight": entry("F32", [4, 3], 0), "scale": entry("F64", [], 4096), "empty": entry("F32", [0, 7], 0)}
        | {"zerocopy.run.0": entry("U8", [96], 8192)},
        {
            "blocks": [[0, 0, 48], [1, 0, 8], [2, 0, 64], [2, 32, 64], [None, 0, 0]],
            "tensors": {
                "a.weight": ["F32", [4, 3], [3, 1], 0, 0],
                "a.tied": ["F32", [4, 3], [3, 1], 0, 0],
                "a.transposed": ["F32", [3, 4], [1, 3], 0, 0],
                "a.column": ["F32", [4], [3], 0, 8],
                "a.expanded": ["F32", [2, 5], [0, 0], 0, 44],
                "scale": ["F64", [], [], 1, 0],
                "b.first": ["BF16", [32], [1], 2, 0],
                "b.second": ["C128", [4], [1], 3, 0],
                "empty": ["F32", [0, 7], [7, 1], 4, 0],
            },
            "archives": [
                {"records": 2, "blocks": [2, 1], "sizes": [60, 8], "has_storages": False}
                | {"modules": [[0, 0, []], [1, 0, ["encoder", "layer"]]]},
            ],
            "programs": [{"package": 3, "constants": {"weight": ["F32", [4, 3], [3, 1], 0, 0]}}],
            "roots": [
                {"name": "a", "skeleton": 0, "buffers": [], "archive": None, "tensor_blocks": [0, 1, 4]}
                | {"segments": [0, 1], "host_segments": []},
                {"name": "b", "skeleton": 1, "buffers": [3], "archive": 0, "tensor_blocks": [1, 2]}
                | {"segments": [1, 2], "host_segments": [2]},
            ],
        },
    )
    sample.parts["metadata"]["license"] = "apache-2.0"
    return sample


def example() -> Sample:
    """The one that is shown in docs/image_format.md."""
    return Sample(
        [struct.pack("<6f", 1, 2, 3, 4, 5, 6)],
        [],
        {"weight": entry("F32", [2, 3], 0)},
        {
            "blocks": [[0, 0, 24]],
            "tensors": {"weight": ["F32", [2, 3], [3, 1], 0, 0], "weight.T": ["F32", [3, 2], [1, 3], 0, 0]},
        },
    )


SAMPLES = {
    "v1_tensors.safetensors": tensors,
    "v1_pipelines.safetensors": pipelines,
    "v1_example.safetensors": example,
}

# What spoils a sample. Each returns a function that does it to one.

Spoil = Callable[[Sample], None]


def put(value: Any, *path: Any) -> Spoil:
    """Puts a value where the path through `Sample.parts` leads."""

    def spoil(sample: Sample) -> None:
        inner = sample.parts
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return spoil


def drop(*path: Any) -> Spoil:
    def spoil(sample: Sample) -> None:
        inner = sample.parts
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return spoil


def last(name: str, change: Any) -> Spoil:
    """Changes what is put together late: `index_text`, `header`, `header_text` or `file`."""
    return lambda sample: setattr(sample, name, change)


def swap(name: str, old: str, new: str) -> Spoil:
    return last(name, lambda text: text.replace(old, new, 1))


def offsets(name: str, begin: int, end: int) -> Spoil:
    return last("header", lambda header: header[name].update(data_offsets=[begin, end], shape=[end - begin]))


def flipped(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


# A file that is bad, the error that the specification has for it, and what makes it of pipelines().
BAD: dict[str, tuple[str, Spoil]] = {
    # The file
    "without a byte": ("truncated", last("file", lambda file: b"")),
    "shorter than a length": ("truncated", last("file", lambda file: file[:7])),
    "only a length": ("truncated", last("file", lambda file: file[:8])),
    "cut in its header": ("truncated", last("file", lambda file: file[:1000])),
    "cut in its data": ("truncated", last("file", lambda file: file[:-1])),
    "longer than it says": ("truncated", last("file", lambda file: file + b"\0")),
    "a header of 2^63 bytes": ("not_an_image", last("file", lambda file: struct.pack("<Q", 2**63) + file[8:])),
    "a zip": ("not_an_image", last("file", lambda file: b"PK\3\4\0\0\x08\x08" + file[8:])),
    "a header that begins with a space": ("not_an_image", swap("header_text", "{", " {")),
    # The header's text
    "a header with a byte behind its object": ("malformed_header", last("header_text", lambda text: text + "]")),
    "a header that is cut": ("malformed_header", last("header_text", lambda text: text[:-1])),
    "a header with a byte of zero": ("malformed_header", last("header_text", lambda text: text + "\0")),
    "a header that is not UTF-8": ("malformed_header", swap("header_text", "scale", "\udc80")),
    "half a surrogate pair in the header": ("malformed_header", swap("header_text", "apache-2.0", "\\ud800")),
    "a tab in a name": ("malformed_header", swap("header_text", "scale", "\t")),
    "two tensors of a name in the header": ("duplicate_name", swap("header_text", '"scale"', '"a.weight"')),
    "a fraction in a shape": ("malformed_header", swap("header_text", "[4,3]", "[4.0,3]")),
    "a number with a sign": ("malformed_header", swap("header_text", "[4,3]", "[4,-0]")),
    "a number of 2^53": ("malformed_header", swap("header_text", "[4,3]", "[9007199254740992,3]")),
    "a number of 100 digits": ("malformed_header", swap("header_text", "[4,3]", f"[{'9' * 100},3]")),
    "NaN": ("malformed_header", swap("header_text", "[4,3]", "[NaN,3]")),
    "nested too deeply": ("malformed_header", swap("header_text", "[4,3]", "[" * 2000 + "]" * 2000)),
    # Metadata
    "a plain safetensors file": ("not_an_image", last("header", lambda header: header.pop("__metadata__"))),
    "metadata without a version": ("not_an_image", drop("metadata", "zerocopy.version")),
    "metadata that is a list": ("malformed_header", last("header", lambda header: header.update(__metadata__=[]))),
    "a number in the metadata": ("malformed_header", put(1, "metadata", "license")),
    "version 2": ("unknown_version", put("2", "metadata", "zerocopy.version")),
    "version 01": ("unknown_version", put("01", "metadata", "zerocopy.version")),
    "a reserved key in the metadata": ("reserved_name", put("", "metadata", "zerocopy.other")),
    "no format": ("malformed_header", drop("metadata", "format")),
    "a digest in capitals": ("malformed_header", put("A" * 32, "metadata", "zerocopy.digest")),
    "data within a page": (
        "malformed_header",
        last("file", lambda file: struct.pack("<Q", 4152) + file[8:4096] + b" " * 64 + file[4096:]),
    ),
    # Entries
    "an entry with a member more": ("malformed_header", put(0, "entries", "scale", "more")),
    "an entry without a shape": ("malformed_header", drop("entries", "scale", "shape")),
    "a dtype that nobody knows": ("malformed_header", put("F31", "entries", "scale", "dtype")),
    "a dtype that safetensors does not know": ("malformed_header", put("C128", "entries", "scale", "dtype")),
    "an entry that is larger than its tensor": ("malformed_header", put([4, 2], "entries", "a.weight", "shape")),
    "a shape that overflows": ("malformed_header", put([2**32, 2**32, 2**32], "entries", "a.weight", "shape")),
    "no elements, and too many": ("malformed_header", put([0, 2**40, 2**40], "entries", "empty", "shape")),
    "65 dimensions": ("too_large", put([1] * 65, "entries", "scale", "shape")),
    "three offsets": ("malformed_header", swap("header_text", "[0,0]", "[0,0,0]")),
    "an entry that ends before it begins": ("malformed_header", swap("header_text", "[0,48]", "[48,0]")),
    "an unknown reserved name": ("reserved_name", put(entry("U8", [0], 0), "entries", "zerocopy.other.0")),
    "a reserved name without a number": ("reserved_name", put(entry("U8", [0], 0), "entries", "zerocopy.pad.")),
    "a reserved name numbered 00": ("reserved_name", put(entry("U8", [0], 0), "entries", "zerocopy.pad.00")),
    "a run that is not of bytes": ("malformed_header", put(entry("I16", [48], 8192), "entries", "zerocopy.run.0")),
    "a gap": ("malformed_header", last("header", lambda header: header.pop("zerocopy.pad.1"))),
    "an overlap": ("malformed_header", offsets("zerocopy.pad.0", 47, 4096)),
    "an entry beyond the data": ("malformed_header", offsets("zerocopy.index", 2**50, 2**50 + 1)),
    # The index as a whole
    "no index": ("malformed_header", last("header", lambda header: header.update(other=header.pop("zerocopy.index")))),
    "an index that is not last": (
        "malformed_header",
        lambda sample: setattr(sample, "header", _with_something_behind_the_index(sample)),
    ),
    "another index than was written": ("damaged", last("file", lambda file: flipped(file, len(file) - 2))),
    "an index that is no JSON": ("malformed_index", last("index_text", lambda text: text[:-1])),
    "an index with a byte order mark": ("malformed_index", last("index_text", lambda text: "\ufeff" + text)),
    "an index that is a list": ("malformed_index", last("index_text", lambda text: f"[{text}]")),
    "an index behind a space": ("malformed_index", last("index_text", lambda text: " " + text)),
    "two tensors of a name in the index": ("duplicate_name", swap("index_text", '"a.tied"', '"a.column"')),
    "an index without blobs": ("malformed_index", drop("index", "blobs")),
    "an index with a member more": ("malformed_index", put([], "index", "more")),
    "a producer that is a number": ("malformed_index", put(1, "index", "producer")),
    "segments that are an object": ("malformed_index", put({}, "index", "segments")),
    "65,537 roots": ("too_large", put([0] * 65_537, "index", "roots")),
    # Segments
    "a segment behind the data": ("malformed_index", put([2**40, 4096, "0" * 32], "index", "segments", 2)),
    "a segment over the blobs and the index": ("malformed_index", put(8192, "index", "segments", 2, 1)),
    "a segment within a page": ("malformed_index", put(8256, "index", "segments", 2, 0)),
    "half a page": ("malformed_index", put(2048, "index", "segments", 2, 1)),
    "a segment without bytes": ("malformed_index", put(0, "index", "segments", 2, 1)),
    "two segments of the same bytes": ("malformed_index", put(4096, "index", "segments", 2, 0)),
    "a segment with half a digest": ("malformed_index", put("0" * 16, "index", "segments", 2, 2)),
    # Blocks and tensors
    "a block beyond its segment": ("malformed_index", put([0, 4064, 48], "index", "blocks", 0)),
    "a block that overflows": ("malformed_index", put([0, 2**53 - 1, 2**53 - 1], "index", "blocks", 0)),
    "a block in no segment": ("malformed_index", put([None, 0, 8], "index", "blocks", 4)),
    "a block without bytes in a segment": ("malformed_index", put([0, 0, 0], "index", "blocks", 4)),
    "a block in segment 3": ("malformed_index", put([3, 0, 8], "index", "blocks", 0)),
    "a block in segment true": ("malformed_index", put([True, 0, 8], "index", "blocks", 1)),
    "a tensor beyond its block": ("malformed_index", put(12, "index", "tensors", "a.column", 4)),
    "a tensor with a stride too far": ("malformed_index", put([2**53 - 1], "index", "tensors", "a.column", 2)),
    "a tensor with a negative stride": ("malformed_index", put([-1], "index", "tensors", "a.column", 2)),
    "a tensor with a stride too few": ("malformed_index", put([1], "index", "tensors", "a.transposed", 2)),
    "a tensor in block 5": ("malformed_index", put(5, "index", "tensors", "a.tied", 3)),
    "an empty tensor beyond its block": ("malformed_index", put(1, "index", "tensors", "empty", 4)),
    "a tensor of four bits": ("malformed_index", put("F4", "index", "tensors", "a.tied", 0)),
    "a tensor with a reserved name": (
        "reserved_name",
        put(["F32", [1], [1], 0, 0], "index", "tensors", "zerocopy.index"),
    ),
    "a tensor named __metadata__": ("reserved_name", put(["F32", [1], [1], 0, 0], "index", "tensors", "__metadata__")),
    # Blobs
    "a blob in a segment": ("malformed_index", put([64, 13, "0" * 32], "index", "blobs", 0)),
    "a blob within the index": ("malformed_index", put(2**20, "index", "blobs", 3, 1)),
    "a blob that is not aligned": ("malformed_index", put(12_289, "index", "blobs", 0, 0)),
    # Archives, programs, roots
    "an archive in blob 5": ("malformed_index", put(5, "index", "archives", 0, "records")),
    "an archive with a size too few": ("malformed_index", put([60], "index", "archives", 0, "sizes")),
    "a storage larger than its block": ("malformed_index", put([65, 8], "index", "archives", 0, "sizes")),
    "an archive with a storage in block 9": ("malformed_index", put([9, 1], "index", "archives", 0, "blocks")),
    "an archive with has_storages 0": ("malformed_index", put(0, "index", "archives", 0, "has_storages")),
    "two modules of a number": ("malformed_index", put([[0, 0, []]] * 2, "index", "archives", 0, "modules")),
    "a program in blob 5": ("malformed_index", put(5, "index", "programs", 0, "package")),
    "a constant in block 5": (
        "malformed_index",
        put(["F32", [1], [1], 5, 0], "index", "programs", 0, "constants", "c"),
    ),
    "two roots of a name": ("duplicate_name", put("a", "index", "roots", 1, "name")),
    "a root with skeleton 5": ("malformed_index", put(5, "index", "roots", 0, "skeleton")),
    "a root with archive 1": ("malformed_index", put(1, "index", "roots", 0, "archive")),
    "a root with a segment twice": ("malformed_index", put([0, 0, 1], "index", "roots", 0, "segments")),
    "a root that lists too few segments": ("malformed_index", put([0], "index", "roots", 0, "segments")),
    "an archive in a segment that its root lacks": (
        "malformed_index",
        put([0, 1, 2], "index", "archives", 0, "blocks"),
    ),
    "a host segment that is none of the root's": ("malformed_index", put([0], "index", "roots", 1, "host_segments")),
    # Header and index together
    "a tensor of the header that the index lacks": ("malformed_index", drop("index", "tensors", "a.weight")),
    "a tensor of two dtypes": ("malformed_index", put("I32", "index", "tensors", "a.weight", 0)),
    "a tensor of two shapes": ("malformed_index", put([3, 4], "entries", "a.weight", "shape")),
    "a tensor in two places": ("malformed_index", put([1, 64, 8], "index", "blocks", 1)),
    "a tensor of the header that is transposed": ("malformed_index", put([1, 4], "index", "tensors", "a.weight", 2)),
    "a run in no segment": ("malformed_index", put([8192, 64, 0], "index", "segments", 2)),
    "a run behind the segments": ("malformed_index", put(entry("U8", [1], 12_330), "entries", "zerocopy.run.1")),
    "a blob that the index lacks": ("malformed_index", put(entry("U8", [0], 0), "entries", "zerocopy.blob.5")),
    "a blob that the header lacks": ("malformed_index", drop("entries", "zerocopy.blob.4")),
    "a blob in two places": ("malformed_index", put(12, "index", "blobs", 0, 1)),
}


def _with_something_behind_the_index(sample: Sample) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        end = len(sample.data)
        sample.data += b"\0"
        header["zerocopy.pad.99"] = entry("U8", [1], end)

    return change


def hexdump(content: bytes) -> list[str]:
    """As `hexdump -C` has it: lines like the one before are left out."""
    lines = []
    for at in range(0, len(content), 16):
        row = content[at : at + 16]
        if at and len(row) == 16 and row == content[at - 16 : at]:
            lines += ["*"] if lines[-1] != "*" else []
            continue
        halves = "  ".join(row[half : half + 8].hex(" ") for half in (0, 8))
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}  {halves:<48}  |{text}|")
    return [*lines, f"{len(content):08x}"]


def bad_file(name: str) -> bytes:
    sample = pipelines()
    BAD[name][1](sample)
    return bytes(sample)


if __name__ == "__main__":
    for folder in (GOLDEN, FUZZ_INPUTS):
        folder.mkdir(exist_ok=True)
    for name, make in SAMPLES.items():
        (GOLDEN / name).write_bytes(bytes(make()))
    (FUZZ_INPUTS / "pipelines").write_bytes(bytes(pipelines()))
    for name in BAD:
        (FUZZ_INPUTS / name.replace(" ", "-").replace(",", "").replace("^", "")).write_bytes(bad_file(name))
