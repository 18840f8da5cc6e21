"""`thaw`: a pipeline again, its tensors and arrays lying in a private, copy-on-write window on the image's segments."""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import Any, NamedTuple

import torch

from ray_zerocopy import _engine
from ray_zerocopy.image import leaves, tracing
from ray_zerocopy.image.collection import no_collection
from ray_zerocopy.image.image import Image, Skeleton
from ray_zerocopy.image.memory import DeviceMemory, HostMemory


class Thawed(NamedTuple):
    """A thawed root, and the View that its weights lie in (None where nothing needed one)."""

    root: Any
    view: _engine.View | None
    views_of_parts: tuple[_engine.View, ...] = ()
    """Those of parts that were thawed by themselves, and are now in the root."""

    @property
    def views(self) -> tuple[_engine.View, ...]:
        """All Views that the root's weights lie in."""
        return self.views_of_parts if self.view is None else (self.view, *self.views_of_parts)

    def prefault(self) -> None:
        """Begins to take the View's page faults in the background, ahead of the first use."""
        if self.view is not None:
            with contextlib.suppress(OSError):  # no thread to be had: then the first use takes its page faults itself
                self.view.prefault()


def thaw(image: Image, device: torch.device | str | None = None, *, skeleton: int = 0) -> Any:
    """Make a pipeline of an image. Each call gives an independent one: what is written to it nobody else sees.

    Args:
        image: from `freeze`, or from an object store.
        device: where the tensors go, all of them, as with `torch.load(map_location=device)`; None: the CPU, where they
            lie in the image's own pages until they are written to.
        skeleton: which of the image's roots.

    Returns:
        The pipeline, modules in eval mode. Its tensors and arrays keep the image's memory alive.

    Raises:
        ValueError: there is no such root, or what the image says of its parts cannot be.
    """
    return thaw_in_view(image, device, skeleton=skeleton).root


def thaw_in_view(image: Image, device: torch.device | str | None = None, *, skeleton: int = 0) -> Thawed:
    """As `thaw`, with the View, for who wants to prefault or `reset` it or to see what diverged.

    The View has the root's own segments and no other; on a device only those that the host's memory must have.
    """
    target = torch.device("cpu" if device is None else device)
    bones = image.skeleton(skeleton)
    if target.type == "cpu":
        return thaw_into(HostMemory(image, bones), bones)
    return thaw_into(DeviceMemory(image, bones, target), bones)


def thaw_into(memory: HostMemory, bones: Skeleton) -> Thawed:
    """Thaw a skeleton into the memory that was made for it."""
    unpickler = _Unpickler(bones.pickled, [memory.host(block).data for block in bones.buffers], memory)
    with no_collection():
        root = unpickler.load()
        training, recurrent, scripts = unpickler.load()
    for module, attributes in scripts:
        vars(module).update(attributes)
    for module in training:
        module.eval()
    if isinstance(memory, DeviceMemory):
        for module in recurrent:
            module.flatten_parameters()  # cuDNN wants a recurrent module's weights in one piece
    return Thawed(root, memory.view)


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes | memoryview, buffers: list[memoryview], memory: HostMemory) -> None:
        super().__init__(io.BytesIO(pickled), buffers=buffers)
        self._memory = memory

    def find_class(self, module: str, name: str) -> Any:
        if module == leaves.__name__:
            return getattr(self._memory, name)
        found = super().find_class(module, name)
        return tracing.one_at_a_time(found) if tracing.is_tracing(module, name) else found
