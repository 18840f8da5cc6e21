"""What a frozen pipeline is, and the two ways through it: `freeze` and `thaw`.

Nothing here knows Ray's object store (`ray_zerocopy.transport` does).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_zerocopy.image.freezing import External, freeze, freeze_each
    from ray_zerocopy.image.image import Image
    from ray_zerocopy.image.thawing import Thawed, thaw, thaw_in_view

__all__ = ["External", "Image", "Thawed", "freeze", "freeze_each", "thaw", "thaw_in_view"]

_MODULES = {
    "External": "freezing",
    "Image": "image",
    "Thawed": "thawing",
    "freeze": "freezing",
    "freeze_each": "freezing",
    "thaw": "thawing",
    "thaw_in_view": "thawing",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: a process that loads a pipeline from a file does not need Ray's pickler, with which
    # Ray comes, 40 MB; and the keeper of images in parts does not need torch.
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return value
