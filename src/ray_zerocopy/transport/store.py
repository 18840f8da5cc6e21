"""Images in Ray's object store: the only file that puts them there and gets them out.

An image is one object of the process that publishes it, or it is handed to the keeper, which goes on to own it.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import ray
import ray.util.client
import torch
from ray.exceptions import ObjectLostError

from ray_zerocopy import _engine
from ray_zerocopy.errors import ModelLostError
from ray_zerocopy.image import Image, Thawed, thaw_in_view
from ray_zerocopy.image.parts import ImageParts, Segment
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.monitoring import loads, metrics
from ray_zerocopy.transport import keeper, store_connection, unshared
from ray_zerocopy.transport.keeper import Kept, Offer, Publication
from ray_zerocopy.transport.saved import FileSource

_OF_RAY_CLIENT = (
    "Ray Client brought them here from the cluster; load models in actors or tasks, or run this program on a node of "
    "the cluster, connected without ray://"
)
"""Why weights are a private copy in a program that is connected by Ray Client."""

Published: TypeAlias = "ray.ObjectRef[ImageParts] | Kept"  # which Ray 2.43 could not evaluate
"""Where an image is: in the object of the process that wrapped it, or with the keeper."""


class ModelInImage(NamedTuple):
    """One model of a published image; it keeps the image. Small to pickle, and `ray.put` makes a reference to it."""

    image: Published
    skeleton: int
    description: str = "a model"
    """What errors call it."""
    file: FileSource | None = None
    """Where it is loaded from on a node that has this file."""
    name: str | None = None
    """What it was found by, for whoever looks at what a process has loaded."""

    @property
    def key(self) -> tuple[bytes, int]:
        """What tells it apart from all other models in the cluster."""
        ref = self.image.body if isinstance(self.image, Kept) else self.image
        return ref.binary(), self.skeleton


def publish(image: Image | ImageParts) -> ray.ObjectRef[ImageParts]:
    """Put an image into the node's object store, as one object; Ray copies each segment there, once.

    The image stays there until the last reference to it, and the last pipeline loaded from it, are gone.
    """
    ref: ray.ObjectRef[Any] = ray.put(_Sliced(image.parts if isinstance(image, Image) else image))
    return ref


class _Sliced:
    """An image on its way into the object store, its segments cut so that Ray copies them quickly; it comes out whole.

    Ray starts six threads for each buffer of more than 1 MiB. Up to 16 MiB that takes longer than it saves.
    """

    _SLICE = (1 << 20) - 64
    """Bytes. Ray aligns buffers to 64 bytes, so slices of this size lie one after the other in the store."""
    _WHOLE = 16 << 20
    """Bytes from which a segment stays whole."""

    def __init__(self, parts: ImageParts) -> None:
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        without = dataclasses.replace(self._parts, segments=())
        return _joined, (without, [self._sliced(segment) for segment in self._parts.segments])

    def _sliced(self, segment: Segment) -> bytes | list[pickle.PickleBuffer]:
        if isinstance(segment, bytes):
            return segment
        nbytes = segment.nbytes
        step = self._SLICE if nbytes < self._WHOLE else nbytes
        return [pickle.PickleBuffer(segment[begin : begin + step]) for begin in range(0, nbytes, step)]


def _joined(parts: ImageParts, segments: list[bytes | list[Any]]) -> ImageParts:
    """The image, with these segments; slices that do not lie one after the other (Ray Client's) are copied together."""
    return dataclasses.replace(parts, segments=tuple(map(_whole, segments)))


def _whole(segment: bytes | list[Any]) -> Segment:
    if isinstance(segment, bytes):
        return segment
    if len(segment) == 1:
        whole: Segment = segment[0]
        return whole
    joined = _engine.join(segment)
    return b"".join(segment) if joined is None else joined.data


def publish_by_name(
    name: keeper.ModelName,
    kind: str,
    lifetime: keeper.Lifetime | None,
    replace: bool,
    head: bytes,
    images: list[Image],
    source: keeper.Source | None = None,
) -> None:
    """Have the keeper own images under a name.

    Until this returns there is a transient copy in the object store of those segments that the keeper lacks; nothing is
    copied in private memory.

    Args:
        name: the name.
        kind: what to list it as.
        lifetime: None: the name goes with this process.
        replace: whether the name may be in use.
        head: what is found beside the images.
        images: in the order in which they will be found.
        source: the file that holds the one image, if any.

    Raises:
        ValueError: the name is in use.
    """
    bodies = [_Body(image) for image in images]
    offers: list[Offer] = []
    segments: dict[keeper.SegmentKey, pickle.PickleBuffer] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for body in bodies:
            digests = tuple(pool.map(_engine.digest, body.segments))
            offers.append(Offer(digests, tuple(body.references)))
            segments.update(zip(keeper.segment_keys(digests), body.segments, strict=True))
    keeper.publish(
        Publication(name, kind, lifetime, replace, head, tuple(offers), source),
        [pickle.PickleBuffer(body.pickled) for body in bodies],
        segments,
    )


class _Body(pickle.Pickler):
    """An image taken apart: its segments and Ray's references, and a pickle of all else."""

    def __init__(self, image: Image) -> None:
        self.segments: list[pickle.PickleBuffer] = []
        self.references: list[Any] = []
        stream = io.BytesIO()
        super().__init__(stream, protocol=5, buffer_callback=self.segments.append)
        self.dump(image.parts)
        self.pickled = stream.getvalue()

    def persistent_id(self, obj: Any) -> int | None:
        if not is_ray_reference(type(obj)):
            return None
        self.references.append(obj)
        return len(self.references) - 1


class _Unpickler(pickle.Unpickler):
    """Puts together what `_Body` took apart."""

    def __init__(self, pickled: Any, segments: Sequence[Any], references: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(pickled), buffers=segments)
        self._references = references

    def persistent_load(self, pid: Any) -> Any:
        return self._references[pid]


def fetch(source: Any) -> tuple[Image, int]:
    """Get a published image, and the number of the skeleton meant in it.

    `source` is an image, where one was published, a `ModelInImage`, or a reference to one of them.

    No weights are copied where this node's store has them; they are brought to it, once, where it has not.

    Raises:
        TypeError: it is, or leads to, something else.
        ModelLostError: the process that owned the image has ended, or its node is gone.
    """
    value, skeleton, description = source, 0, "a model"
    if isinstance(value, ray.ObjectRef):
        value = get(value, description)
    if isinstance(value, ModelInImage):
        value, skeleton, description, *_ = value
    if not isinstance(value, Image):
        value = Image.of(fetch_parts(value, description))
    return value, skeleton


def fetch_parts(published: Any, description: str = "a model") -> ImageParts:
    """The parts of a published image, as `fetch` gets them: not even put together, and so not checked.

    Raises:
        TypeError, ModelLostError: as `fetch`.
    """
    value = published
    if isinstance(value, Kept):
        (pickled,), *bundles = get([value.body, *value.bundles], description)
        segments = [bundles[bundle][index] for bundle, index in value.places]
        value = _Unpickler(pickled, segments, value.references).load()
    elif isinstance(value, ray.ObjectRef):
        value = get(value, description)
    if not isinstance(value, ImageParts):
        raise TypeError(f"Expected a reference to what ray_zerocopy published, got a {type(value).__name__}.")
    return value


def get(refs: Any, description: str = "a model") -> Any:
    """What references lead to, as `ray.get`.

    Args:
        refs: one, or a list of them.
        description: what errors call the model.

    Raises:
        ModelLostError: the process that owned it has ended, or its node is gone.
    """
    try:
        return ray.get(refs)
    except ObjectLostError as error:
        raise ModelLostError(
            f"The weights of {description} are lost ({type(error).__name__}): they live no longer than the process "
            "that wrapped it, nor than the nodes that have them, and one of these has ended. Wrap the model again; "
            "for it to outlive the process that wraps it, give it a name: "
            'ActorWrapper(pipeline, name="...", lifetime="detached"), and the same for the other wrappers.'
        ) from error


def load(source: Any, device: torch.device | str | None = None) -> Thawed:
    """Fetch and thaw; where the weights could not be shared, say so once in this process, and why.

    They stay what they are for as long as the result lives, also after `ray.shutdown()`.

    Raises:
        MemoryError: the weights could not be shared, and there is no room for a private copy.
        TypeError: as `fetch`.
    """
    began = time.perf_counter()
    if isinstance(source, ModelInImage) and source.file is not None:
        saved = source.file.opened()
        if saved is not None:
            return saved.load(source.skeleton, device)
    image, skeleton = fetch(source)
    try:
        thawed = thaw_in_view(image, device, skeleton=skeleton)
    except MemoryError as error:
        raise MemoryError(
            "Weights can be neither mapped nor copied into this process. It has reached a limit: of memory, of "
            "address space (RLIMIT_AS) or of mappings (vm.max_map_count)."
        ) from error
    if not _stays_pinned(thawed.view):
        owned = dataclasses.replace(image.parts, segments=tuple(bytes(segment) for segment in image.segments))
        thawed = thaw_in_view(Image.of(owned), device, skeleton=skeleton)
    thawed.prefault()
    loaded = _load_of(source)
    loads.note(thawed.view, loaded)
    metrics.note_seconds(loaded.source, time.perf_counter() - began)
    if thawed.view is not None:
        mapped = image.skeleton(skeleton).mapped_segments(torch.device("cpu" if device is None else device))
        segments = [image.segments[number] for number in mapped]
        if ray.util.client.ray.is_connected():
            unshared.say(thawed.view.copied_bytes, _OF_RAY_CLIENT)  # it brings all segments as bytes
        else:
            private = sum(len(segment) for segment in segments if isinstance(segment, bytes))
            unshared.say(thawed.view.copied_bytes - private, thawed.view.private_copy_reason)
    return thawed


def _load_of(source: Any) -> loads.Load:
    """What a load is called."""
    if isinstance(source, Image):
        return loads.Load("what is beside a pipeline's models", "store")
    if not isinstance(source, ModelInImage):
        return loads.Load("model", "store")
    kind: loads.Source = "keeper" if isinstance(source.image, Kept) else "store"
    return loads.Load(source.description.removeprefix("a "), kind, source.name)


def _stays_pinned(view: _engine.View | None) -> bool:
    """Whether the View's bytes stay what they are until it goes, whatever becomes of this process's Ray meanwhile."""
    if view is None or view.copied_bytes == view.nbytes or not store_connection.outlives_ray():
        return True
    connection = store_connection.hold()
    if connection is not None:
        view.keep(connection)
    return connection is not None
