"""Segments travel into the object store in slices, and come out whole."""

from __future__ import annotations

import numpy as np
import pytest
import ray
import torch
from memory import bits

from ray_zerocopy import _engine
from ray_zerocopy.image import Image, freeze, thaw_in_view
from ray_zerocopy.image.parts import ImageParts
from ray_zerocopy.transport import store

KB = 1 << 10
SIZES = [4, 100 * KB, (1 << 20) - 64, (1 << 20) - 60, 1 << 20, (3 << 20) + 4, 4 << 20, 16 << 20, (16 << 20) + 4]
"""Bytes: on both sides of every limit there is."""


@ray.remote
def found(parts: ImageParts) -> tuple[int, int, list[bytes]]:
    """How many segments arrive, how many of their bytes are a private copy in the worker, and what they hold."""
    weights, view, _ = thaw_in_view(Image.of(parts))
    assert view is not None
    return len(parts.segments), view.copied_bytes, [bits(tensor) for tensor in weights]


@pytest.mark.usefixtures("cluster")
def test_a_segment_of_any_size_comes_out_whole_and_shared() -> None:
    weights = [torch.arange(size // 4, dtype=torch.int32) + number for number, size in enumerate(SIZES)]
    frozen = freeze(weights)
    segments, copied, content = ray.get(found.remote(store.publish(frozen)))
    assert (segments, copied) == (len(frozen.segments), 0)
    assert content == [bits(tensor) for tensor in weights]


def test_buffers_that_lie_one_after_the_other_are_joined_without_a_copy() -> None:
    whole = np.arange(100, dtype=np.uint8)
    joined = _engine.join([whole[:10], whole[10:10], whole[10:60], whole[60:]])
    assert joined is not None
    assert not joined.flags.writeable
    whole[50] = 7
    assert joined.tobytes() == whole.tobytes()


@pytest.mark.parametrize("pieces", [(slice(10), slice(11, 20)), (slice(10, 20), slice(10)), (slice(10), slice(9, 20))])
def test_buffers_with_a_gap_or_an_overlap_are_not_joined(pieces: tuple[slice, slice]) -> None:
    whole = np.arange(100, dtype=np.uint8)
    assert _engine.join([whole[piece] for piece in pieces]) is None


def test_what_has_no_bytes_is_not_joined() -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        _engine.join([b"1", 2])
