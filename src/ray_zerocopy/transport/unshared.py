"""Weights that are a private copy where they should have been shared. Imports nothing of Ray."""

from __future__ import annotations

import logging
import threading

_log = logging.getLogger("ray_zerocopy")

_SMALL = 1 << 20
"""Bytes below which a private copy is not worth a word: small objects never reach shared memory in Ray."""

_said = threading.Event()


def say(copied_bytes: int, reason: str | None) -> None:
    """Say that so many bytes are a private copy, and why, unless that was said before or they are few.

    Args:
        copied_bytes: those that could have been shared.
        reason: why they are not, as `View.private_copy_reason` has it.
    """
    if copied_bytes > _SMALL and not _said.is_set():
        _said.set()
        _log.warning("Weights are a private copy in this process, not shared with others on this node: %s.", reason)
