"""Several measurements of one figure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of some samples, and their range."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        return cls(statistics.median(samples), min(samples), max(samples), len(samples))


def medians_of_blocks(samples: Sequence[float], blocks: int = 5) -> list[float]:
    """The medians of consecutive blocks: several samples of the median, whose range tells how far to trust it."""
    size = max(1, len(samples) // blocks)
    starts = range(0, len(samples) - size + 1, size)
    return [statistics.median(samples[start : start + size]) for start in starts]
