"""The warning of the older functions."""

from __future__ import annotations

import warnings


def warn_deprecated(name: str, replacement: str) -> None:
    """Say, at the line that called the function that calls this, what to use instead."""
    warnings.warn(f"{name} is deprecated: use ray_zerocopy.{replacement}", DeprecationWarning, stacklevel=3)
