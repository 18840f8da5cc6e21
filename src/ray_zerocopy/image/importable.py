"""Functions that other processes find by their names."""

from __future__ import annotations

import sys
from typing import Any


def is_importable(function: Any) -> bool:
    """Whether a function is what its module has under its name, in any process that imports the module."""
    found: Any = None if function.__module__ == "__main__" else sys.modules.get(function.__module__ or "")
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function
