"""An image file on its way through an object store, as the keeper puts it there. Imports no torch."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_zerocopy import _engine


@dataclass(frozen=True)
class FileParts:
    """What `ray_zerocopy.image.reading.image_of` makes an image of. Pickled, its segments travel out of band."""

    index: str
    """The file's, checked."""
    blobs: tuple[bytes, ...]
    segments: Sequence[Any]
    """Each with the buffer protocol."""

    def __reduce__(self) -> tuple[Any, ...]:
        return FileParts, (self.index, self.blobs, [pickle.PickleBuffer(segment) for segment in self.segments])


def parts_of(file: _engine.Image) -> FileParts:
    """All of a file; its segments are the file's own pages, and keep the file.

    Raises:
        ValueError: one of the blobs is damaged.
    """
    content = json.loads(file.index)
    blobs = tuple(bytes(file.blob(number)) for number in range(len(content["blobs"])))
    return FileParts(file.index, blobs, [file.segment(number) for number in range(len(content["segments"]))])
