"""An image file as an image. Imports nothing of Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_zerocopy import _engine
from ray_zerocopy.image.image import EMPTY, Block, FrozenScripts, Image, Skeleton


def image_of(content: Mapping[str, Any], blob: Callable[[int], Any], segments: Sequence[Any]) -> Image:
    """The image that a file holds.

    Args:
        content: the file's index, checked, and parsed.
        blob: gives the bytes of one of its blobs.
        segments: of the file, each with the buffer protocol; they are not copied.
    """
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


def read(file: _engine.Image) -> tuple[Image, str]:
    """The image in a file, and what wrote it; its segments are the file's own pages, read-only, and keep the file.

    Raises:
        ValueError: a skeleton, an archive or a package is damaged.
    """
    content = json.loads(file.index)
    segments = [file.segment(number) for number in range(len(content["segments"]))]
    return image_of(content, file.blob, segments), content["producer"]
