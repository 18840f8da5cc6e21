"""What a frozen pipeline is, and the two ways through it: `freeze` and `thaw`.

Nothing here knows Ray's object store (`ray_zerocopy.store` does); an `Image` is plain data.
"""

from ray_zerocopy.image.freezing import External, freeze, freeze_each
from ray_zerocopy.image.image import Image
from ray_zerocopy.image.thawing import Thawed, thaw, thaw_in_view

__all__ = ["External", "Image", "Thawed", "freeze", "freeze_each", "thaw", "thaw_in_view"]
