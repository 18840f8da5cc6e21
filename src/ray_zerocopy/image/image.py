"""`Image`: a frozen pipeline as plain data."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Segment = bytes | memoryview


class Block(NamedTuple):
    """Where one block of weights (a storage's or an array's bytes) lies.

    Blocks that overlapped in memory lie in the same segment, so they overlap again after thaw.
    """

    segment: int
    """Index into `Image.segments`; -1 for an empty block."""
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


@dataclass(frozen=True)
class FrozenScripts:
    """The TorchScript modules of an image, without their weights."""

    archive: bytes
    """Code and object graphs: a zip in the layout of `torch.package`."""
    blocks: tuple[int, ...]
    """The block of each storage, at the number that the archive has for it."""
    modules: tuple[tuple[int, tuple[str, ...]], ...]
    """Where each module is: its root's place in the archive, and the submodules' names on the way from that root."""


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
    scripts: FrozenScripts | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in all segments together."""
        return sum(memoryview(segment).nbytes for segment in self.segments)

    def __reduce__(self) -> tuple[Any, ...]:
        travelling = [s if isinstance(s, bytes) else pickle.PickleBuffer(s) for s in self.segments]
        return _image, (self.skeletons, self.blocks, travelling, self.externals, self.scripts)


def _image(
    skeletons: tuple[Skeleton, ...],
    blocks: tuple[Block, ...],
    segments: Sequence[Segment],
    externals: tuple[Any, ...],
    scripts: FrozenScripts | None,
) -> Image:
    return Image(skeletons, blocks, tuple(segments), externals, scripts)
