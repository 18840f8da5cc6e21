"""Collecting the blocks of weights that a walk over a pipeline meets."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from ray_zerocopy import _engine


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

    def add_to(self, writer: _engine.ImageWriter) -> None:
        """Add all blocks to an image, in the order of their numbers; the writer keeps their owners."""
        writer.add_blocks(list(self._numbers), self._owners)

    def find(self, address: int, nbytes: int) -> int | None:
        """The number of the `nbytes` bytes at `address`; None: they have none."""
        return self._numbers.get((address if nbytes else 0, nbytes))

    def nbytes(self, number: int) -> int:
        """The size of a block."""
        return self._sizes[number]

    def keys(self) -> set[tuple[int, int]]:
        """The address and size of every block."""
        return set(self._numbers)

    def among(self, keys: AbstractSet[tuple[int, int]]) -> list[int]:
        """The numbers of the blocks with one of these addresses and sizes."""
        return [number for key, number in self._numbers.items() if key in keys]
