"""The models that this process has loaded, for as long as their memory lives. Keeps none of them alive."""

from __future__ import annotations

import functools
import itertools
import sys
import weakref
from typing import Literal, NamedTuple

from ray_zerocopy import _engine
from ray_zerocopy.monitoring import metrics, record

Source = Literal["store", "keeper", "file", "checkpoint"]
"""Where the weights are shared: an object in Ray's store, one that the keeper owns, an image file, or a checkpoint."""


class Load(NamedTuple):
    """One loaded model."""

    model: str
    """What it is called: its class, and where it is in its pipeline."""
    source: Source
    origin: str | None = None
    """The name or the file that it was loaded from."""


class Living(NamedTuple):
    """A load whose memory lives."""

    load: Load
    view: _engine.View


# Numbers rather than Views are the keys, and no lock guards them: a View may go at any moment of any thread, in the
# middle of what is done here too. Each step below is one that the interpreter does not interrupt.
_loads: dict[int, tuple[weakref.ref[_engine.View], Load]] = {}
_numbers = itertools.count()


def note(view: _engine.View | None, load: Load) -> None:
    """Remember a model that was just loaded, until its View goes.

    Args:
        view: what its weights lie in; None: it has none in the host's memory, and nothing is to be remembered.
        load: the model.
    """
    if view is None:
        return
    number = next(_numbers)
    _loads[number] = weakref.ref(view, functools.partial(_forget, number)), load
    record.add(
        number, record.Entry(*load, view.nbytes, view.copied_bytes, view.private_copy_reason, view.mapped_pages())
    )
    metrics.note_load(number, load.model, view.nbytes, view.copied_bytes, view.private_copy_code)


def living() -> dict[int, Living]:
    """All loads whose memory lives, by number, the oldest first. Keeps them as long as the caller keeps it."""
    found = ((number, load, ref()) for number, (ref, load) in _loads.copy().items())
    return {number: Living(load, view) for number, load, view in found if view is not None}


def _forget(number: int, _: object) -> None:
    if sys.is_finalizing():
        return
    _loads.pop(number, None)
    record.remove(number)
    metrics.note_drop(number)
