"""How far a long piece of work has come, for who wants to see it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger("ray_zerocopy")

_STEPS = 10
"""Messages for the whole work."""


@contextmanager
def shown(title: str, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Gives what is to be told how many bytes are done, and how many there are.

    Args:
        title: of the work.
        wanted: False: gives None, and shows nothing.
    """
    if not wanted:
        yield None
        return
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        yield _messages(title)
        return
    with tqdm(desc=title, unit="B", unit_scale=True, unit_divisor=1000) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


@contextmanager
def counted(title: str | None, total: int | None) -> Iterator[Callable[[], None]]:
    """Gives what is to be called each time that one more is done.

    Args:
        title: of the work; None: nothing is shown.
        total: how many there are, if that is known.
    """
    if title is None:
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield _counting_messages(title, total)
        return
    with tqdm(desc=title, total=total) as bar:
        yield bar.update


def _counting_messages(title: str, total: int | None) -> Callable[[], None]:
    done, due = 0, 1

    def say() -> None:
        nonlocal done, due
        done += 1
        if done == (due if total is None else total * due // _STEPS or 1):
            due = due * 2 if total is None else due + 1
            _log.info("%s: %d%s", title, done, "" if total is None else f" of {total}")

    return say


def _messages(title: str) -> Callable[[int, int], None]:
    said = 0

    def say(done: int, total: int) -> None:
        nonlocal said
        step = _STEPS if done >= total else done * _STEPS // total
        if step > said:
            said = step
            _log.info("%s: %.1f of %.1f MB", title, done / 1e6, total / 1e6)

    return say
