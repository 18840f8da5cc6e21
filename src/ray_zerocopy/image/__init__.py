"""What a frozen pipeline is, and the two ways through it: `freeze` and `thaw`.

Nothing here knows Ray's object store (`ray_zerocopy.transport` does); an `Image` is plain data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_zerocopy.image.image import Image
from ray_zerocopy.image.thawing import Thawed, thaw, thaw_in_view

if TYPE_CHECKING:
    from ray_zerocopy.image.freezing import External, freeze, freeze_each

__all__ = ["External", "Image", "Thawed", "freeze", "freeze_each", "thaw", "thaw_in_view"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: a process that loads a pipeline from a file does not need Ray's pickler, with which
    # Ray comes, 40 MB.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ray_zerocopy.image import freezing

    value = globals()[name] = getattr(freezing, name)
    return value
