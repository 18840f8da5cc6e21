"""Collecting the blocks of weights that a walk over a pipeline meets, and laying them out as segments."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np

from ray_zerocopy import _engine
from ray_zerocopy.image.image import EMPTY, Block, Bytes, Segment


class Span:
    """`nbytes` bytes of somebody's memory at `address`, as something numpy can look at without copying.

    `numpy.asarray(span)` keeps the span alive, and the span its owners: that is what keeps the memory valid.
    """

    __slots__ = ("__array_interface__", "owners")

    def __init__(self, address: int, nbytes: int, owners: list[Any]) -> None:
        self.owners = owners
        self.__array_interface__ = {"data": (address, True), "shape": (nbytes,), "typestr": "|u1", "version": 3}


class Met(NamedTuple):
    """The numbers of the blocks that a walk met."""

    tensors: set[int]
    """Those that go where the tensors go."""
    host: set[int]
    """Those that stay in the host's memory."""


class BlockTable:
    """The blocks met so far, each numbered once however often it is met. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._met = Met(set(), set())
        self._numbers: dict[tuple[int, int], int] = {}
        self._owners: list[Any] = []
        self._sizes: list[int] = []

    def begin(self) -> Met:
        """Begins a walk: what `add` is given from now on is noted in what this returns, until the next walk begins."""
        self._met = Met(set(), set())
        return self._met

    def add(self, address: int, nbytes: int, owner: Any, *, host: bool = False) -> int:
        """Number the `nbytes` bytes at `address`, which stay valid as long as `owner` lives.

        Args:
            address: of the first byte.
            nbytes: how many.
            owner: what keeps them in place.
            host: whether they stay in the host's memory when the tensors go to a device.
        """
        key = (address if nbytes else 0, nbytes)
        number = self._numbers.setdefault(key, len(self._owners))
        if number == len(self._owners):
            self._owners.append(owner)
            self._sizes.append(nbytes)
        (self._met.host if host else self._met.tensors).add(number)
        return number

    def __len__(self) -> int:
        return len(self._owners)

    def memories(self) -> Iterator[Bytes]:
        """The bytes of each block, in the order of their numbers; each array keeps its block's owner."""
        for (address, nbytes), owner in zip(self._numbers, self._owners, strict=True):
            yield np.asarray(Span(address, nbytes, [owner])) if nbytes else np.empty(0, np.uint8)

    def find(self, address: int, nbytes: int) -> int | None:
        """The number of the `nbytes` bytes at `address`; None: they have none."""
        return self._numbers.get((address if nbytes else 0, nbytes))

    def nbytes(self, number: int) -> int:
        """The size of a block."""
        return self._sizes[number]

    def keys(self) -> set[tuple[int, int]]:
        """The address and size of every block."""
        return set(self._numbers)

    def layout(
        self, roots: Sequence[AbstractSet[int]], shared: set[tuple[int, int]] | None = None, *, join: bool = False
    ) -> tuple[list[Block], list[Segment]]:
        """Lay the blocks out as disjoint segments: blocks that overlap share one.

        The engine lays them out as in a file (`docs/image_format.md`), where a segment is all that the same roots
        need. In an object store each of its large runs is a segment by itself, so that the keeper holds equal ones
        once; the small ones, which are copied, are one segment together, since each segment costs whoever loads it.

        Args:
            roots: of each root, the blocks that it needs.
            shared: limits sharing: of a segment with none of these blocks each process gets a copy (`bytes`). None:
                share all.
            join: whether blocks that follow each other in memory without a gap, as those of a checkpoint's file do,
                lie in one segment: the object store takes a few large segments much faster than many.
        """
        users: list[list[int]] = [[] for _ in self._owners]
        for root, numbers in enumerate(roots):
            for number in numbers:
                users[number].append(root)
        sharing = len(roots)  # one root more: it uses what is to be shared
        for key, number in self._numbers.items():
            if shared is None or key in shared:
                users[number].append(sharing)
        layout = _engine.Layout([(*key, users[number]) for key, number in self._numbers.items()], join)
        segments: list[Segment] = []
        starts_in: list[list[tuple[int, int]]] = []
        for group, (used_by, runs) in enumerate(zip(layout.roots, layout.large_runs, strict=True)):
            found = [(offset, np.asarray(Span(address, nbytes, self._owners))) for offset, address, nbytes in runs]
            packed = layout.packed(group)
            if packed is not None:
                found.append(packed)
            starts_in.append([(offset, len(segments) + place) for place, (offset, _) in enumerate(found)])
            segments += [run.data if sharing in used_by else run.tobytes() for _, run in found]
        blocks = []
        for (_, nbytes), (within, offset) in zip(self._numbers, layout.places, strict=True):
            if within is None:
                blocks.append(Block(EMPTY, 0, 0))
            else:
                starts = starts_in[within]
                begin, segment = starts[bisect_right(starts, (offset, len(segments))) - 1]
                blocks.append(Block(segment, offset - begin, nbytes))
        return blocks, segments
