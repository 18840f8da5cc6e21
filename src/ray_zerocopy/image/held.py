"""What wrappers say of what they hold."""

from __future__ import annotations

from typing import NamedTuple


class Held(NamedTuple):
    """What a wrapper holds, for people."""

    class_name: str
    """The pipeline's."""
    models: tuple[tuple[str, str | None], ...]
    """Where each of its outermost models is within it (`pipeline.encoder`), and its class, where that is known."""
    nbytes: int
    """Of all weights, and of what aligns them (to 64 bytes)."""

    def __str__(self) -> str:
        paths = [(path.removeprefix("pipeline").removeprefix("."), kind) for path, kind in self.models]
        within = [(path, kind) for path, kind in paths if path]
        shown = [path if kind is None else f"{path} ({kind})" for path, kind in within[:_SHOWN]]
        if len(within) > _SHOWN:
            shown.append(f"{len(within) - _SHOWN} more models")
        return f"{self.class_name}{' with ' if shown else ''}{', '.join(shown)}, {self.nbytes / 1e6:.1f} MB"


_SHOWN = 5
"""Models that are named; of more it says how many there are."""
