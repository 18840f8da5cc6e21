"""An image file as an image. Imports nothing of Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ray_zerocopy import _engine
from ray_zerocopy.image.image import EMPTY, Block, FrozenScripts, Image, Skeleton


def image_of(index: str, blob: Callable[[int], Any], segments: Sequence[Any]) -> Image:
    """The image that a file holds.

    Args:
        index: the file's, checked.
        blob: gives the bytes of one of its blobs.
        segments: of the file, each with the buffer protocol; they are not copied.
    """
    content = json.loads(index)
    return Image(
        tuple(
            Skeleton(
                bytes(blob(root["skeleton"])),
                tuple(root["buffers"]),
                root["archive"],
                tuple(root["tensor_blocks"]),
                tuple(root["segments"]),
                tuple(root["host_segments"]),
            )
            for root in content["roots"]
        ),
        tuple(Block(EMPTY if segment is None else segment, *rest) for segment, *rest in content["blocks"]),
        tuple(memoryview(segment) for segment in segments),
        (),
        tuple(
            FrozenScripts(
                bytes(blob(archive["records"])),
                tuple(archive["blocks"]),
                tuple(archive["sizes"]),
                archive["has_storages"],
                {number: (place, tuple(path)) for number, place, path in archive["modules"]},
            )
            for archive in content["archives"]
        ),
        tuple(bytes(blob(program["package"])) for program in content["programs"]),
    )


def read(file: _engine.Image) -> Image:
    """The image in a file; its segments are the file's own pages, read-only, and keep the file.

    Raises:
        ValueError: a skeleton, an archive or a package is damaged.
    """
    segments = [file.segment(number) for number in range(len(json.loads(file.index)["segments"]))]
    return image_of(file.index, file.blob, segments)
