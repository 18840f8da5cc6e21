"""Collecting the blocks of weights that a walk over a pipeline meets, and laying them out as segments."""

from __future__ import annotations

from typing import Any

import numpy as np

from ray_zerocopy.image.image import Block, Segment


class Span:
    """`nbytes` bytes of somebody's memory at `address`, as something numpy can look at without copying.

    `numpy.asarray(span)` keeps the span alive, and the span its owners: that is what keeps the memory valid.
    """

    __slots__ = ("__array_interface__", "owners")

    def __init__(self, address: int, nbytes: int, owners: list[Any]) -> None:
        self.owners = owners
        self.__array_interface__ = {"data": (address, True), "shape": (nbytes,), "typestr": "|u1", "version": 3}


class BlockTable:
    """The blocks met so far, each numbered once however often it is met. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}
        self._owners: list[Any] = []

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, address: int, nbytes: int, owner: Any) -> int:
        """Number the `nbytes` bytes at `address`, which stay valid as long as `owner` lives."""
        key = (address if nbytes else 0, nbytes)
        number = self._numbers.setdefault(key, len(self._owners))
        if number == len(self._owners):
            self._owners.append(owner)
        return number

    def keys(self) -> set[tuple[int, int]]:
        """The address and size of every block."""
        return set(self._numbers)

    def layout(self, shared: set[tuple[int, int]] | None = None) -> tuple[list[Block], list[Segment]]:
        """Lay the blocks out as disjoint segments: blocks that overlap share one.

        `shared` limits sharing: a segment with none of these blocks becomes `bytes`, a copy. None: share all.
        """
        blocks = [Block(-1, 0, 0)] * len(self._owners)
        segments: list[Segment] = []
        run: list[tuple[int, int, int]] = []  # address, nbytes, number: blocks that overlap, so one segment
        end = 0

        def close() -> None:
            if not run:
                return
            start = run[0][0]
            for address, nbytes, number in run:
                blocks[number] = Block(len(segments), address - start, nbytes)
            segment = np.asarray(Span(start, end - start, [self._owners[number] for _, _, number in run])).data
            is_shared = shared is None or any((address, nbytes) in shared for address, nbytes, _ in run)
            segments.append(segment if is_shared else segment.tobytes())

        for (address, nbytes), number in sorted(self._numbers.items()):
            if nbytes == 0:
                continue
            if address >= end:
                close()
                run = []
                end = address
            run.append((address, nbytes, number))
            end = max(end, address + nbytes)
        close()
        return blocks, segments
