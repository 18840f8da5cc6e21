"""Garbage collection, kept off the walks that make many objects at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """No automatic collection in the body.

    What a walk makes is in use until it ends, so that a collection finds nothing; and with torch imported a full one
    takes longer than a whole freeze or thaw.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
