"""`Image`: a frozen pipeline, and the handle on the engine's image of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ray_zerocopy import _engine
from ray_zerocopy.image.parts import ImageParts, Segment, parts_of, segments_of

Bytes = npt.NDArray[np.uint8]

T = TypeVar("T")


class Skeleton(NamedTuple):
    """One pickled object graph, its bulk bytes replaced by block numbers."""

    pickled: bytes | memoryview
    """Two pickles with one memo: the root; then what is left to do to some of its modules.

    That is a tuple: the modules to put into eval mode, the recurrent ones, and TorchScript modules with what Python
    code has set on them.
    """
    buffers: Sequence[int]
    """Blocks of the graph's `pickle.PickleBuffer`s (PEP 574), in the order of the stream."""
    scripts: int | None
    """The number of the archive of its TorchScript modules; None without such modules."""
    tensor_blocks: Sequence[int]
    """The graph's blocks that go where its tensors go."""
    segments: Sequence[int]
    """The segments that hold blocks of the graph."""
    host_segments: Sequence[int]
    """Those of them with blocks that stay in the host's memory when the tensors go to a device."""

    def mapped_segments(self, device: torch.device) -> Sequence[int]:
        """The segments that whoever thaws the graph onto this device needs in the host's memory."""
        return self.segments if device.type == "cpu" else self.host_segments


@dataclass(frozen=True)
class FrozenScripts:
    """The TorchScript modules of a root, without their weights."""

    archive: bytes
    """Code and object graphs: a zip in the layout of `torch.package`."""
    blocks: Sequence[int]
    """The block of each storage, at the number that the archive has for it."""
    sizes: Sequence[int]
    """The bytes of each of these blocks, as the archive's tensors need them."""
    has_storages: bool
    """Whether the archive holds storages of its own, too: those that exist only while they are written."""
    modules: Mapping[int, tuple[int, Sequence[str]]]
    """Where each module is, by its number in the image: the place in the archive of the outermost module that holds it,
    and the submodules' names on the way from there."""


@dataclass(frozen=True, eq=False)
class Image:
    """A frozen pipeline: skeletons (the object graphs) and segments (the bulk bytes, not copied).

    The engine has checked its structure. An image that came from `freeze` borrows the pipeline's own memory: but for
    small blocks, which are copied, it shows what the pipeline holds when it is published, not when it was frozen. One
    that came out of an object store borrows the store's pages, read-only, and one that came from a file the file's.
    """

    content: _engine.Image
    segments: tuple[Segment, ...]
    """Those of `content`, C-contiguous; `bytes` where each process gets a copy."""
    externals: tuple[Any, ...] = ()
    """Objects the skeletons refer to but do not hold, for whoever transports the image to carry (`ray.ObjectRef`s)."""
    blobs: tuple[bytes, ...] | None = None
    """Those of `content`, where they are objects of Python's already: they need not be copied to become such."""

    @classmethod
    def of(cls, parts: ImageParts) -> Image:
        """The image whose parts these are.

        Raises:
            ValueError: what the index says of them cannot be, or is not of them.
        """
        content = _engine.Image.assemble(parts.index, parts.segments, parts.blobs)
        return cls(content, tuple(parts.segments), parts.externals, parts.blobs)

    @classmethod
    def of_file(cls, file: _engine.Image) -> Image:
        """The image that a file is; its segments are the file's own pages, read-only, and keep the file."""
        return cls(file, segments_of(file))

    @property
    def parts(self) -> ImageParts:
        """What the image is put together from again.

        Raises:
            ValueError: one of the blobs is damaged.
        """
        if self.blobs is None:
            return parts_of(self.content, self.segments, self.externals)
        return ImageParts(self.content.index, self.blobs, self.segments, self.externals)

    def skeleton(self, number: int) -> Skeleton:
        """The skeleton of a root; ValueError if there is none, or if it is damaged."""
        blob, buffers, archive, tensor_blocks, segments, host_segments = self.content.root(number)
        return Skeleton(self._blob(blob), buffers, archive, tensor_blocks, segments, host_segments)

    def scripts(self, number: int) -> FrozenScripts:
        """An archive; ValueError if there is none, or if it is damaged."""
        blob, blocks, sizes, has_storages, modules = self.content.archive(number)
        return FrozenScripts(bytes(self._blob(blob)), blocks, sizes, has_storages, modules)

    def package(self, number: int) -> bytes:
        """The package of a compiled program, without its constants; ValueError as above."""
        return bytes(self._blob(self.content.package(number)))

    def _blob(self, number: int) -> bytes | memoryview:
        checked = self.content.blob(number).data
        return checked if self.blobs is None else self.blobs[number]

    @property
    def nbytes(self) -> int:
        """Bytes in all segments together."""
        return sum(memoryview(segment).nbytes for segment in self.segments)

    def __reduce__(self) -> tuple[Any, ...]:
        return Image.of, (self.parts,)


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
