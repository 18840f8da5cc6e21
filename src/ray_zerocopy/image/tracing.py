"""Modules of `torch.fx`, which torch unpickles by tracing their generated code.

Tracing replaces `nn.Module.__call__` and other functions for the whole process, and one global variable says by what
(`torch.fx._symbolic_trace.CURRENT_PATCHER`), so that two threads that trace at once disturb each other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

_one_at_a_time = threading.RLock()
_done = threading.local()


def is_tracing(module: str, name: str) -> bool:
    """Whether a function with this name, as a pickle names it, traces."""
    return module == "torch.fx.graph_module" and name.startswith("reduce_")


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, for one thread at a time; the others wait."""

    @functools.wraps(function)
    def locked(*args: Any) -> Any:
        _done.count = count() + 1
        with _one_at_a_time:
            return function(*args)

    return locked


def count() -> int:
    """How many modules this thread has traced."""
    number: int = getattr(_done, "count", 0)
    return number
