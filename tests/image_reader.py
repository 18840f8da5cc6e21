"""A second reader of image files: docs/image_format.md in plain Python, in the order of the text, for comparison."""

import json
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import xxhash

ITEM_SIZES = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 1),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 2),
    **dict.fromkeys(["I32", "U32", "F32"], 4),
    **dict.fromkeys(["C64", "F64", "I64", "U64"], 8),
    "C128": 16,
}
LARGEST_NUMBER = 2**53 - 1
LARGEST_TEXT = 100_000_000
MOST_TENSORS = 1_000_000
MOST_PARTS = 65_536
MOST_DIMENSIONS = 64
MOST_VALUES = 2**24
DEEPEST = 8


class ViolationError(Exception):
    """A file is not as specified; `error` is the error's name in the specification."""

    def __init__(self, error: str, problem: str) -> None:
        super().__init__(f"{error}: {problem}")
        self.error = error


def read_image(path: Path) -> dict[str, Any]:
    """Everything that the specification has a reader check at opening, then the index."""
    file = path.read_bytes()
    header, data = _header(file)
    entries = _entries(header, data)
    return _index(_index_text(header, entries, data), entries)


def read_parts(text: bytes, segments: Sequence[Any], blobs: Sequence[Any]) -> dict[str, Any]:
    """The same for an image in parts."""
    if len(text) > LARGEST_TEXT:
        raise ViolationError("too_large", "the index")
    index = _index(text, None)
    for kind, parts in (("segments", segments), ("blobs", blobs)):
        if len(parts) != len(index[kind]):
            raise ViolationError("malformed_index", f"{len(parts)} {kind} instead of {len(index[kind])}")
        for part, (_, nbytes, _) in zip(parts, index[kind], strict=True):
            if memoryview(part).nbytes != nbytes:
                raise ViolationError("truncated", f"{memoryview(part).nbytes} bytes instead of {nbytes}")
    return index


def digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def data_of(path: Path) -> bytes:
    file = path.read_bytes()
    return file[8 + struct.unpack_from("<Q", file)[0] :]


def damages(path: Path) -> list[str]:
    """The segments and blobs whose bytes are not those that were written."""
    index, data = read_image(path), data_of(path)
    return [
        f"{kind[:-1].capitalize()} {number} has the digest {found} instead of {expected}."
        for kind in ("segments", "blobs")
        for number, (offset, nbytes, expected) in enumerate(index[kind])
        if (found := digest(data[offset : offset + nbytes])) != expected
    ]


# The file and its header


def _header(file: bytes) -> tuple[dict[str, Any], bytes]:
    if len(file) < 8:
        raise ViolationError("truncated", "too short for a length")
    (length,) = struct.unpack_from("<Q", file)
    if length > LARGEST_TEXT or file[8:9] not in (b"{", b""):
        raise ViolationError("not_an_image", "no safetensors file")
    if len(file) < 8 + length:
        raise ViolationError("truncated", "too short for its header")
    header = _json(file[8 : 8 + length], "malformed_header")
    if "__metadata__" not in header:
        raise ViolationError("not_an_image", "no metadata")
    _check_metadata(header["__metadata__"])
    if (8 + length) % 4096 != 0:
        raise ViolationError("malformed_header", "the data begins within a page")
    return header, file[8 + length :]


def _json(text: bytes, malformed: str) -> dict[str, Any]:
    values = 0

    def count(amount: int) -> None:
        nonlocal values
        values += amount
        if values > MOST_VALUES:
            raise ViolationError("too_large", "too many values")

    def number(digits: str) -> int:
        if not digits.isdigit() or int(digits) > LARGEST_NUMBER:
            raise ViolationError(malformed, digits)
        return int(digits)

    def refused(constant: str) -> NoReturn:
        raise ViolationError(malformed, constant)

    def without_duplicates(members: list[tuple[str, Any]]) -> dict[str, Any]:
        count(len(members))
        if len(dict(members)) != len(members):
            raise ViolationError("duplicate_name", str(members))
        return dict(members)

    def walk(value: Any, depth: int) -> None:
        count(1)
        if isinstance(value, str):
            value.encode()  # A surrogate by itself is no character.
        if not isinstance(value, dict | list):
            return
        if depth > DEEPEST:
            raise ViolationError(malformed, "too deep")
        for key in value if isinstance(value, dict) else ():
            key.encode()
        for inner in value.values() if isinstance(value, dict) else value:
            walk(inner, depth + 1)

    try:
        decoded = text.decode()
        value = json.loads(
            decoded,
            parse_int=number,
            parse_float=refused,
            parse_constant=refused,
            object_pairs_hook=without_duplicates,
        )
        walk(value, 1)
    except (UnicodeError, json.JSONDecodeError, RecursionError) as error:
        raise ViolationError(malformed, str(error)) from error
    if not decoded.startswith("{"):
        raise ViolationError(malformed, "not an object")
    return value


def _check_metadata(metadata: Any) -> None:
    malformed = _Checks("malformed_header")
    malformed.check(isinstance(metadata, dict), "metadata")
    malformed.check(all(isinstance(value, str) for value in metadata.values()), "metadata")
    if "zerocopy.version" not in metadata:
        raise ViolationError("not_an_image", "no version")
    if metadata["zerocopy.version"] != "1":
        raise ViolationError("unknown_version", metadata["zerocopy.version"])
    if any(key.startswith("zerocopy.") for key in metadata.keys() - {"zerocopy.version", "zerocopy.digest"}):
        raise ViolationError("reserved_name", str(metadata))
    malformed.check(metadata.get("format") == "pt", "format")
    malformed.check(_is_digest(metadata.get("zerocopy.digest")), "digest")


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 32 and set(text) <= set("0123456789abcdef")


# Entries

Entries = dict[str, tuple[str, list[int], int, int]]


def _entries(header: dict[str, Any], data: bytes) -> Entries:
    malformed = _Checks("malformed_header")
    entries: Entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        malformed.members(entry, {"dtype", "shape", "data_offsets"})
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        malformed.check(isinstance(dtype, str), name)
        malformed.dimensions(shape)
        malformed.tuple(offsets, int, int)
        malformed.check(dtype in ITEM_SIZES and dtype != "C128", name)
        begin, end = offsets
        malformed.check(begin <= end, name)
        malformed.check(malformed.size(shape, dtype) == end - begin, name)
        if name.startswith("zerocopy."):
            malformed.check(dtype == "U8" and len(shape) == 1, name)
            kind, _, number = name.removeprefix("zerocopy.").partition(".")
            is_numbered = number.isascii() and number.isdigit() and number == str(int(number))
            if name != "zerocopy.index" and not (kind in ("run", "pad", "blob") and is_numbered):
                raise ViolationError("reserved_name", name)
        entries[name] = dtype, shape, begin, end
    reached = 0
    for begin, end in sorted((begin, end) for _, _, begin, end in entries.values()):
        malformed.check(begin == reached, f"a gap or an overlap at {begin}")
        reached = end
    if reached != len(data):
        raise ViolationError("truncated", f"{len(data)} bytes of data instead of {reached}")
    return entries


# The index


def _index_text(header: dict[str, Any], entries: Entries, data: bytes) -> bytes:
    malformed = _Checks("malformed_header")
    _, _, begin, end = entries.get("zerocopy.index", ("U8", [0], 0, 0))
    malformed.check(begin < end, "no index")
    if end - begin > LARGEST_TEXT:
        raise ViolationError("too_large", "the index")
    malformed.check(begin % 64 == 0 and end == len(data), "the index is not last, or not aligned")
    text = data[begin:end]
    if digest(text) != header["__metadata__"]["zerocopy.digest"]:
        raise ViolationError("damaged", "the index")
    return text


def _index(text: bytes, entries: Entries | None) -> dict[str, Any]:
    """The index of a file that has these entries, or of an image in parts."""
    malformed = _Checks("malformed_index", in_parts=entries is None)
    index = _json(text, "malformed_index")
    lists = {"segments", "blocks", "blobs", "archives", "programs", "roots"}
    malformed.members(index, {*lists, "tensors", "producer"})
    end_of_parts = LARGEST_NUMBER if entries is None else entries["zerocopy.index"][2]

    reached = 0
    malformed.list(index["segments"], MOST_PARTS)
    for segment in index["segments"]:
        malformed.part(segment, reached, end_of_parts)
        offset, nbytes, _ = segment
        malformed.check(nbytes > 0, "a segment without bytes")
        if entries is not None:
            malformed.check(offset % 4096 == 0 and nbytes % 4096 == 0, "a segment is no whole pages")
        reached = offset + nbytes

    malformed.list(index["blocks"], MOST_TENSORS)
    for block in index["blocks"]:
        if block != [None, 0, 0]:
            malformed.tuple(block, int, int, int)
            segment, offset, nbytes = block
            malformed.number(segment, index["segments"])
            malformed.check(nbytes > 0 and offset + nbytes <= index["segments"][segment][1], "a block's place")

    malformed.tensors(index["tensors"], index["blocks"])
    for name in index["tensors"]:
        if name.startswith("zerocopy.") or name == "__metadata__":
            raise ViolationError("reserved_name", name)

    malformed.list(index["blobs"], MOST_PARTS)
    for blob in index["blobs"]:
        malformed.part(blob, reached, end_of_parts)
        malformed.check(entries is None or blob[0] % 64 == 0, "a blob is not aligned")
        reached = blob[0] + blob[1]

    malformed.list(index["archives"], MOST_PARTS)
    for archive in index["archives"]:
        malformed.archive(archive, index)
    malformed.list(index["programs"], MOST_PARTS)
    for program in index["programs"]:
        malformed.members(program, {"package", "constants"})
        malformed.number(program["package"], index["blobs"])
        malformed.tensors(program["constants"], index["blocks"])
    malformed.list(index["roots"], MOST_PARTS)
    for root in index["roots"]:
        malformed.root(root, index)
    names = [root["name"] for root in index["roots"]]
    if len(set(names)) != len(names):
        raise ViolationError("duplicate_name", str(names))
    malformed.check(isinstance(index["producer"], str), "the producer")
    if entries is not None:
        _compare(index, entries, malformed.check)
    return index


def _compare(index: dict[str, Any], entries: Entries, check: Callable[[bool, str], None]) -> None:
    for name, (dtype, shape, begin, end) in entries.items():
        if not name.startswith("zerocopy."):
            check(name in index["tensors"], name)
            its_dtype, its_shape, strides, block, offset = index["tensors"][name]
            check([its_dtype, its_shape] == [dtype, shape], name)
            if begin != end:
                contiguous = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
                steps = zip(shape, strides, contiguous, strict=True)
                check(all(length == 1 or stride == expected for length, stride, expected in steps), name)
                segment, offset_of_block, _ = index["blocks"][block]
                check(begin == index["segments"][segment][0] + offset_of_block + offset, name)
        elif name.startswith("zerocopy.run."):
            check(any(at <= begin and end <= at + nbytes for at, nbytes, _ in index["segments"]), name)
    blobs = {f"zerocopy.blob.{number}": blob for number, blob in enumerate(index["blobs"])}
    check({name for name in entries if name.startswith("zerocopy.blob.")} == blobs.keys(), "the blobs")
    for name, (offset, nbytes, _) in blobs.items():
        check(entries[name][2:] == (offset, offset + nbytes), name)


class _Checks:
    """Checks that share the error that they raise."""

    def __init__(self, error: str, in_parts: bool = False) -> None:
        self._error = error
        self._in_parts = in_parts

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            raise ViolationError(self._error, problem)

    def list(self, values: Any, at_most: int) -> None:
        self.check(isinstance(values, list), str(values))
        if len(values) > at_most and not self._in_parts:
            raise ViolationError("too_large", str(len(values)))

    def tuple(self, values: Any, *kinds: type) -> None:
        self.check(isinstance(values, list) and len(values) == len(kinds), str(values))
        self.check(all(type(value) is kind for value, kind in zip(values, kinds, strict=True)), str(values))

    def members(self, value: Any, names: set[str]) -> None:
        self.check(isinstance(value, dict) and value.keys() == names, str(value))

    def number(self, value: Any, of: Any) -> None:
        self.check(type(value) is int and value < len(of), str(value))

    def numbers(self, values: Any, of: Any) -> None:
        self.list(values, MOST_TENSORS)
        for value in values:
            self.number(value, of)

    def dimensions(self, values: Any) -> None:
        self.check(isinstance(values, list), str(values))
        if len(values) > MOST_DIMENSIONS:
            raise ViolationError("too_large", str(len(values)))
        self.check(all(type(value) is int for value in values), str(values))

    def size(self, shape: Any, dtype: str) -> int:
        """Bytes of the elements; dimensions of no elements must be no way around the largest number."""
        self.check(math.prod(max(length, 1) for length in shape) * ITEM_SIZES[dtype] <= LARGEST_NUMBER, str(shape))
        return math.prod(shape) * ITEM_SIZES[dtype]

    def part(self, value: Any, reached: int, end: int) -> None:
        has_digest = not self._in_parts or not isinstance(value, list) or value[2:] != [None]
        self.tuple(value, int, int, str if has_digest else type(None))
        offset, nbytes, its_digest = value
        self.check(not has_digest or _is_digest(its_digest), str(its_digest))
        self.check(reached <= offset and offset + nbytes <= end, str(value))

    def tensors(self, values: Any, blocks: Any) -> None:
        self.check(isinstance(values, dict), str(values))
        if len(values) > MOST_TENSORS and not self._in_parts:
            raise ViolationError("too_large", str(len(values)))
        for tensor in values.values():
            self.tuple(tensor, str, list, list, int, int)
            dtype, shape, strides, block, offset = tensor
            self.dimensions(shape)
            self.dimensions(strides)
            self.number(block, blocks)
            self.check(dtype in ITEM_SIZES, dtype)
            self.check(len(strides) == len(shape), str(tensor))
            nbytes = self.size(shape, dtype)
            if nbytes:
                last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
                nbytes = (last + 1) * ITEM_SIZES[dtype]
            self.check(offset + nbytes <= blocks[block][2], str(tensor))

    def archive(self, value: Any, index: Any) -> None:
        self.members(value, {"records", "blocks", "sizes", "has_storages", "modules"})
        self.number(value["records"], index["blobs"])
        self.numbers(value["blocks"], index["blocks"])
        self.tuple(value["sizes"], *(int for _ in value["blocks"]))
        for block, size in zip(value["blocks"], value["sizes"], strict=True):
            self.check(size <= index["blocks"][block][2], str(size))
        self.check(isinstance(value["has_storages"], bool), "has_storages")
        self.list(value["modules"], MOST_TENSORS)
        for module in value["modules"]:
            self.tuple(module, int, int, list)
            self.check(all(isinstance(name, str) for name in module[2]), str(module))
        self.check(len({module[0] for module in value["modules"]}) == len(value["modules"]), "modules")

    def root(self, value: Any, index: Any) -> None:
        self.members(value, {"name", "skeleton", "buffers", "archive", "tensor_blocks", "segments", "host_segments"})
        self.check(isinstance(value["name"], str), "name")
        self.number(value["skeleton"], index["blobs"])
        self.numbers(value["buffers"], index["blocks"])
        if value["archive"] is not None:
            self.number(value["archive"], index["archives"])
        self.numbers(value["tensor_blocks"], index["blocks"])
        for name in ("segments", "host_segments"):
            self.numbers(value[name], index["segments"])
            self.check(value[name] == sorted(set(value[name])), name)
        self.check(set(value["host_segments"]) <= set(value["segments"]), "host_segments")
        archive = [] if value["archive"] is None else index["archives"][value["archive"]]["blocks"]
        used = {index["blocks"][block][0] for block in [*value["buffers"], *value["tensor_blocks"], *archive]}
        self.check(used - {None} <= set(value["segments"]), "a block in a segment that is not listed")
