"""The figures' names and units, and how a measured value is written."""

from __future__ import annotations

from benchmarks.samples import Spread

FIGURES = {
    "wrap_seconds": "Wrapping",
    "wrap_to_put": "Wrapping ÷ one `ray.put` of an array of that size",
    "wrap_private_bytes": "Wrapping: the driver's extra private memory",
    "load_seconds": "A worker's load",
    "first_seconds": "First call",
    "steady_seconds": "Steady call",
    "first_to_steady": "First call ÷ steady call",
    "steady_to_private": "Steady call ÷ that of a private copy in the same worker",
    "private_bytes": "Private memory per worker",
    "anonymous_bytes": "Private memory that is anonymous",
    "cold_overhead_seconds": "Task call, cold: overhead",
    "warm_overhead_seconds": "Task call, warm: overhead",
    "requests_per_second": "Task mode, 2 callers: requests/s",
}


def written(figure: str, value: float) -> str:
    """A value with its unit, to three digits."""
    if figure.endswith("_seconds"):
        return f"{_digits(value)} s" if abs(value) >= 1 else f"{_digits(value * 1e3)} ms"
    if figure.endswith("_bytes"):
        return f"{_digits(value / 1e9)} GB" if abs(value) >= 1e9 else f"{_digits(value / 1e6)} MB"
    return _digits(value)


def written_spread(figure: str, spread: Spread) -> str:
    """Median and range, with one unit for all three where that is possible."""
    middle, low, high = (written(figure, value).split() for value in spread[:3])
    if middle[1:] == low[1:] == high[1:]:
        low, high = low[:1], high[:1]
    return f"{' '.join(middle)} ({' '.join(low)} to {' '.join(high)})"


def _digits(value: float) -> str:
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{round(value, places) + 0.0:.{places}f}"  # adding 0 makes -0 0
