"""Collecting the blocks of weights that a walk over a pipeline meets, and laying them out as segments."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np

from ray_zerocopy.image.image import EMPTY, Block, Bytes, Segment

_SMALL = 1 << 16
"""Bytes up to which it pays to copy a block rather than to have a segment for it."""

_ALIGNMENT = 64
"""Bytes; that of any new tensor's memory."""


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

        Small ones are copied into one segment together, for each segment costs whoever loads it; but only with those
        that the same roots need, for each root maps its segments whole.

        Args:
            roots: of each root, the blocks that it needs.
            shared: limits sharing: of a segment with none of these blocks each process gets a copy (`bytes`). None:
                share all.
            join: whether blocks that follow each other in memory without a gap, as those of a checkpoint's file do,
                lie in one segment: the object store takes a few large segments much faster than many.
        """
        users: list[int] = [0] * len(self._owners)
        for root, numbers in enumerate(roots):
            for number in numbers:
                users[number] |= 1 << root
        blocks = [Block(EMPTY, 0, 0)] * len(self._owners)
        segments: list[Segment] = []
        small: dict[int, list[_Run]] = {}
        # In the order in which they were met, which is much like that of their use: pages are taken in in this order.
        found = _joined(self._runs(), users) if join else self._runs()
        for run in sorted(found, key=_Run.first):
            if shared is not None and shared.isdisjoint(run.keys()):
                run.place(blocks, len(segments))
                segments.append(run.memory().tobytes())
            elif run.nbytes <= _SMALL:
                small.setdefault(run.users(users), []).append(run)
            else:
                run.place(blocks, len(segments))
                segments.append(run.memory().data)
        for runs in small.values():
            segments.append(_packed(runs, blocks, len(segments)))
        return blocks, segments

    def _runs(self) -> Iterator[_Run]:
        """The blocks that are not empty, by address; those that overlap in one run."""
        run: _Run | None = None
        for (address, nbytes), number in sorted(self._numbers.items()):
            if nbytes == 0:
                continue
            if run is None or address >= run.address + run.nbytes:
                if run is not None:
                    yield run
                run = _Run(address)
            run.add(address, nbytes, number, self._owners[number])
        if run is not None:
            yield run


class _Run:
    """Blocks that overlap."""

    __slots__ = ("_blocks", "_owners", "address", "nbytes")

    def __init__(self, address: int) -> None:
        self.address = address
        self.nbytes = 0
        self._blocks: list[tuple[int, int, int]] = []
        self._owners: list[Any] = []

    def add(self, address: int, nbytes: int, number: int, owner: Any) -> None:
        self.nbytes = max(self.nbytes, address + nbytes - self.address)
        self._blocks.append((address, nbytes, number))
        self._owners.append(owner)

    def is_followed_by(self, other: _Run) -> bool:
        """Whether another one begins where this one ends, and lies as well in a segment of both as in its own."""
        return other.address == self.address + self.nbytes and self.nbytes % _ALIGNMENT == 0

    def append(self, other: _Run) -> None:
        self.nbytes += other.nbytes
        self._blocks += other._blocks
        self._owners += other._owners

    def first(self) -> int:
        """The number of the block that was met first."""
        return min(number for _, _, number in self._blocks)

    def users(self, of_blocks: Sequence[int]) -> int:
        """The roots that need one of the blocks, as a set of bits, given those of every block."""
        return functools.reduce(operator.or_, (of_blocks[number] for _, _, number in self._blocks))

    def keys(self) -> Iterator[tuple[int, int]]:
        return ((address, nbytes) for address, nbytes, _ in self._blocks)

    def memory(self) -> Bytes:
        return np.asarray(Span(self.address, self.nbytes, self._owners))

    def place(self, blocks: list[Block], segment: int, offset: int = 0) -> None:
        """Note in `blocks` that this run is in a segment, `offset` bytes from its start."""
        for address, nbytes, number in self._blocks:
            blocks[number] = Block(segment, offset + address - self.address, nbytes)


def _joined(runs: Iterable[_Run], users: Sequence[int]) -> Iterator[_Run]:
    """The runs, given by address; those that follow each other, and that the same roots need, in one."""
    last: _Run | None = None
    for run in runs:
        if last is not None and last.is_followed_by(run) and last.users(users) == run.users(users):
            last.append(run)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _packed(runs: Sequence[_Run], blocks: list[Block], segment: int) -> Segment:
    """A copy of all runs, one after the other, as that segment."""
    offsets = [0]
    for run in runs:
        offsets.append(offsets[-1] + -(-run.nbytes // _ALIGNMENT) * _ALIGNMENT)
    together = np.zeros(offsets[-1], np.uint8)
    for run, offset in zip(runs, offsets, strict=False):
        together[offset : offset + run.nbytes] = run.memory()
        run.place(blocks, segment, offset)
    return together.data
