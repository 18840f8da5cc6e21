"""An image as it travels between processes: in parts (`docs/image_format.md`). Imports no torch."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_zerocopy import _engine

Segment = bytes | memoryview
"""C-contiguous bytes: `bytes` where each process gets a copy, a `memoryview` where they are shared."""


@dataclass(frozen=True)
class ImageParts:
    """The parts of an image, as somebody says that they belong together: nothing has been checked.

    Pickled with protocol 5 and a `buffer_callback`, every segment travels out of band; `bytes` segments stay in the
    stream.
    """

    index: str
    """JSON."""
    blobs: tuple[bytes, ...]
    segments: tuple[Segment, ...]
    externals: tuple[Any, ...] = ()
    """Objects that the skeletons refer to but do not contain, for whoever transports the image to carry."""

    def __reduce__(self) -> tuple[Any, ...]:
        travelling = [s if isinstance(s, bytes) else pickle.PickleBuffer(s) for s in self.segments]
        return _parts, (self.index, self.blobs, travelling, self.externals)


def _parts(index: str, blobs: tuple[bytes, ...], segments: Sequence[Segment], externals: tuple[Any, ...]) -> ImageParts:
    return ImageParts(index, blobs, tuple(segments), externals)


def parts_of(
    content: _engine.Image, segments: tuple[Segment, ...] | None = None, externals: tuple[Any, ...] = ()
) -> ImageParts:
    """The parts of an image; its blobs are copied.

    Args:
        content: the image.
        segments: its segments; None: as they lie in it, all shared. They keep the image.
        externals: as for `ImageParts`.

    Raises:
        ValueError: one of the blobs is damaged.
    """
    blobs = tuple(bytes(content.blob(number)) for number in range(content.blob_count))
    return ImageParts(content.index, blobs, segments_of(content) if segments is None else segments, externals)


def segments_of(content: _engine.Image) -> tuple[memoryview, ...]:
    """The segments of an image, read-only; they keep it."""
    return tuple(content.segment(number).data for number in range(content.segment_count))
