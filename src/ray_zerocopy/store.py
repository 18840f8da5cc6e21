"""Images in Ray's object store: the only file that puts them there and gets them out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from typing import Any, NamedTuple

import ray
import torch
from ray.actor import ActorHandle

from ray_zerocopy import _engine, store_connection
from ray_zerocopy.image import Image, Thawed, thaw_in_view

_log = logging.getLogger("ray_zerocopy")

_SMALL = 1 << 20
"""Bytes below which a private copy is not worth a word: small objects never reach shared memory in Ray."""


class ModelInImage(NamedTuple):
    """One model of a published image; it keeps the image. Small to pickle, and `ray.put` makes a reference to it."""

    image: ray.ObjectRef[Image]
    skeleton: int


def is_ray_reference(cls: type) -> bool:
    """Whether Ray must pickle objects of this class itself, as part of one of its own objects, to count their users."""
    return issubclass(cls, (ray.ObjectRef, ActorHandle))


def publish(image: Image) -> ray.ObjectRef[Image]:
    """Put an image into the node's object store, as one object; Ray copies each segment there, once.

    The image stays there until the last reference to it, and the last pipeline loaded from it, are gone.
    """
    return ray.put(image)


def fetch(source: Any) -> tuple[Image, int]:
    """Get a published image, and the number of the skeleton meant in it.

    `source` is an image, a `ModelInImage`, or a reference to one of them.

    No weights are copied where this node's store has them; they are brought to it, once, where it has not.

    Raises:
        TypeError: it is, or leads to, something else.
    """
    value: Any = ray.get(source) if isinstance(source, ray.ObjectRef) else source
    skeleton = 0
    if isinstance(value, ModelInImage):
        value, skeleton = ray.get(value.image), value.skeleton
    if not isinstance(value, Image):
        raise TypeError(f"Expected a reference to what ray_zerocopy published, got a {type(value).__name__}.")
    return value, skeleton


def load(source: Any, device: torch.device | str | None = None) -> Thawed:
    """Fetch and thaw; where the weights could not be shared, say so once in this process, and why.

    They stay what they are for as long as the result lives, also after `ray.shutdown()`.

    Raises:
        MemoryError: the weights could not be shared, and there is no room for a private copy.
        TypeError: as `fetch`.
    """
    image, skeleton = fetch(source)
    try:
        thawed = thaw_in_view(image, device, skeleton=skeleton)
    except MemoryError as error:
        raise MemoryError(
            "Weights can be neither mapped nor copied into this process. It has reached a limit: of memory, of "
            "address space (RLIMIT_AS) or of mappings (vm.max_map_count)."
        ) from error
    if not _stays_pinned(thawed.view):
        owned = dataclasses.replace(image, segments=tuple(bytes(segment) for segment in image.segments))
        thawed = thaw_in_view(owned, device, skeleton=skeleton)
    if thawed.view is not None:
        with contextlib.suppress(OSError):  # no thread to be had: then the first call takes its page faults itself
            thawed.view.prefault()
        mapped = image.skeletons[skeleton].mapped_segments(torch.device("cpu" if device is None else device))
        segments = [image.segments[number] for number in mapped]
        unshared = sum(len(segment) for segment in segments if isinstance(segment, bytes))
        if thawed.view.copied_bytes - unshared > _SMALL:
            _say_unshared(thawed.view.private_copy_reason)
    return thawed


def _stays_pinned(view: _engine.View | None) -> bool:
    """Whether the View's bytes stay what they are until it goes, whatever becomes of this process's Ray meanwhile."""
    if view is None or view.copied_bytes == view.nbytes or not store_connection.outlives_ray():
        return True
    connection = store_connection.hold()
    if connection is not None:
        view.keep(connection)
    return connection is not None


_unshared_said = threading.Event()


def _say_unshared(reason: str | None) -> None:
    if not _unshared_said.is_set():
        _unshared_said.set()
        _log.warning("Weights are a private copy in this process, not shared with others on this node: %s.", reason)
