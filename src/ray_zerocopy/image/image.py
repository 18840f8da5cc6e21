"""`Image`: a frozen pipeline as plain data."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]
Segment = bytes | memoryview


T = TypeVar("T")

EMPTY = -1
"""What a block without bytes has for a segment."""


class Block(NamedTuple):
    """Where one block of weights (a storage's or an array's bytes) lies.

    Blocks that overlapped in memory lie in the same segment, so they overlap again after thaw.
    """

    segment: int
    """Index into `Image.segments`; `EMPTY` for a block without bytes."""
    offset: int
    """Bytes from the start of the segment."""
    nbytes: int


class Skeleton(NamedTuple):
    """One pickled object graph, its bulk bytes replaced by block numbers."""

    pickled: bytes
    """Two pickles with one memo: the root; then what is left to do to some of its modules.

    That is a tuple: the modules to put into eval mode, the recurrent ones, and TorchScript modules with what Python
    code has set on them.
    """
    buffers: tuple[int, ...]
    """Blocks of the graph's `pickle.PickleBuffer`s (PEP 574), in the order of the stream."""
    scripts: int | None
    """Index into `Image.scripts`; None without TorchScript modules."""
    tensor_blocks: tuple[int, ...]
    """The graph's blocks that go where its tensors go."""
    segments: tuple[int, ...]
    """The segments that hold blocks of the graph."""
    host_segments: tuple[int, ...]
    """Those of them with blocks that stay in the host's memory when the tensors go to a device."""

    def mapped_segments(self, device: torch.device) -> tuple[int, ...]:
        """The segments that whoever thaws the graph onto this device needs in the host's memory."""
        return self.segments if device.type == "cpu" else self.host_segments


@dataclass(frozen=True)
class FrozenScripts:
    """The TorchScript modules of a root, without their weights."""

    archive: bytes
    """Code and object graphs: a zip in the layout of `torch.package`."""
    blocks: tuple[int, ...]
    """The block of each storage, at the number that the archive has for it."""
    sizes: tuple[int, ...]
    """The bytes of each of these blocks, as the archive's tensors need them."""
    has_storages: bool
    """Whether the archive holds storages of its own, too: those that exist only while they are written."""
    modules: Mapping[int, tuple[int, tuple[str, ...]]]
    """Where each module is, by its number in the image: the place in the archive of the outermost module that holds it,
    and the submodules' names on the way from there."""


@dataclass(frozen=True)
class Image:
    """A frozen pipeline: skeletons (the object graphs) and segments (the bulk bytes, not copied).

    An image that came from `freeze` borrows the pipeline's own memory: but for small blocks, which are copied, it shows
    what the pipeline holds when it is published, not when it was frozen. One that came out of an object store borrows
    the store's pages, read-only. Pickled with protocol 5 and a `buffer_callback`, every segment travels out of band;
    `bytes` segments (those that are not to be shared) stay in the stream.
    """

    skeletons: tuple[Skeleton, ...]
    """One for each root given to `freeze_each`; they share blocks and segments."""
    blocks: tuple[Block, ...]
    segments: tuple[Segment, ...]
    """Disjoint, C-contiguous bytes."""
    externals: tuple[Any, ...] = ()
    """Objects the skeletons refer to but do not hold, for whoever transports the image to carry (`ray.ObjectRef`s)."""
    scripts: tuple[FrozenScripts, ...] = ()
    """Of the roots with TorchScript modules; those with the same modules have one together."""
    packages: tuple[bytes, ...] = ()
    """Of compiled programs, without their constants."""

    def skeleton(self, number: int) -> Skeleton:
        """The skeleton with a number from outside; ValueError if there is none."""
        return entry(self.skeletons, number, "skeleton")

    def block(self, number: int) -> Block:
        """The block with a number from outside; ValueError if there is none, or if its segment does not exist."""
        block = entry(self.blocks, number, "block")
        if block.segment != EMPTY:
            entry(self.segments, block.segment, "segment")
        elif block.nbytes != 0:
            raise ValueError(f"The image is damaged: its block {number} has {block.nbytes} bytes and no segment.")
        return block

    @property
    def nbytes(self) -> int:
        """Bytes in all segments together."""
        return sum(memoryview(segment).nbytes for segment in self.segments)

    def __reduce__(self) -> tuple[Any, ...]:
        travelling = [s if isinstance(s, bytes) else pickle.PickleBuffer(s) for s in self.segments]
        return _image, (self.skeletons, self.blocks, travelling, self.externals, self.scripts, self.packages)


def entry(entries: Sequence[T], number: int, what: str) -> T:
    """One of the parts of an image, by a number from outside. Negative numbers do not count from the end.

    Args:
        entries: all parts of its kind.
        number: its number.
        what: the kind, for the message.

    Raises:
        ValueError: there is none with that number.
    """
    if not 0 <= number < len(entries):
        raise ValueError(f"The image is damaged: {what} {number} is asked for, and it has {len(entries)}.")
    return entries[number]


def _image(
    skeletons: tuple[Skeleton, ...],
    blocks: tuple[Block, ...],
    segments: Sequence[Segment],
    externals: tuple[Any, ...],
    scripts: tuple[FrozenScripts, ...],
    packages: tuple[bytes, ...],
) -> Image:
    return Image(skeletons, blocks, tuple(segments), externals, scripts, packages)
