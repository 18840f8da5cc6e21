"""Whole pipelines run by Ray tasks: what of one is published for that, and the task that a worker runs for it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import ray
from torch.export import ExportedProgram

from ray_zerocopy.image import Image, Thawed
from ray_zerocopy.image.freezing import freeze_roots
from ray_zerocopy.image.models import PublishedModels
from ray_zerocopy.image.parts import ImageParts, Segment
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.tasks import residents
from ray_zerocopy.tasks.freshness import ThawedProgram
from ray_zerocopy.tasks.messages import Arguments, Message, packed, unpacked
from ray_zerocopy.tasks.options import Task, TaskOptions
from ray_zerocopy.tasks.remote import check_has_ended
from ray_zerocopy.tasks.special_methods import public_class
from ray_zerocopy.tasks.stand_ins import Assembled, ProgramStandIn, StandIn, original_of, source_of
from ray_zerocopy.tasks.torch_mode import TorchMode
from ray_zerocopy.transport import store

Call = Callable[[Sequence[Any], Mapping[str, Any]], Any]
"""Starts a task, given the arguments of a method; gives its reference."""


class RemotePipeline:
    """A pipeline whose methods run as Ray tasks, each whole: workers put its models in the places of its stand-ins.

    What the pipeline is beside its models goes along as it is when a task is started; it is put into the object store
    when that is first needed, and again after it has changed. Usable from several threads.

    Args:
        assembled: the pipeline with its stand-ins. Wrappers that it holds stay wrappers. Of its bulk bytes those that
            were published already are not published again.
    """

    def __init__(self, assembled: Assembled) -> None:
        self._pipeline = assembled.pipeline
        self._memory = _Memory(assembled)
        self._identity = uuid.uuid4().bytes
        self._published: _Published | None = None
        self._publishing = threading.Lock()

    def prepare(self, options: TaskOptions, method: str) -> Call:
        """What starts tasks for a method of the pipeline, as it is now, in the torch mode of now.

        Raises:
            TypeError: the pipeline cannot be called, and `method` is `__call__`; or something in it cannot be pickled
                (the message gives the path to it).
        """
        if method == "__call__" and not callable(self._pipeline):
            raise TypeError(
                f"A {type(self._pipeline).__name__} cannot be called: it has no __call__. "
                "To run one of its methods as a task, write wrapper.method.remote(...)."
            )
        run = options.of(_STREAM if self.is_generator(method) else _RUN)
        source = self._current()
        mode = tuple(TorchMode.current())
        number_of_results = options.number_of_results

        def call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            arguments, references = Arguments.of(args, kwargs)
            what = packed((method, mode, tuple(arguments), number_of_results))
            return run.remote(what, source, *references)

        return call

    def is_generator(self, method: str) -> bool:
        """Whether a method of the pipeline is written as a generator: its task then gives one value after the other."""
        owner = type(self._pipeline) if method == "__call__" else self._pipeline
        return inspect.isgeneratorfunction(getattr(owner, method, None))

    def _current(self) -> Source:
        """Where the pipeline is published as it is now."""
        with self._publishing:
            frozen = freeze_roots({"pipeline": self._pipeline}, external=_stays_outside).parts()
            states = [_state_of(part) for part in frozen.externals]
            places = [self._memory.place(segment) for segment in frozen.segments]
            if self._published is None or not self._published.is_of(frozen, states, places, self._memory.is_written()):
                self._published = self._publish(frozen, states, places)
            return self._published.source

    def _publish(self, frozen: ImageParts, states: list[ImageParts | None], places: list[Place | None]) -> _Published:
        shared = self._memory.segments() if any(places) else ()
        kept = [None if place is None else _part(shared, place) for place in places]
        same = [part is not None and _have_equal_bytes(s, part) for s, part in zip(frozen.segments, kept, strict=True)]
        externals = tuple(ModelPart.of(part) if _is_replaced(part) else part for part in frozen.externals)
        own = tuple(b"" if is_same else s for s, is_same in zip(frozen.segments, same, strict=True))
        ref = store.publish(dataclasses.replace(frozen, externals=externals, segments=own))
        borrowed = tuple(place if is_same else None for place, is_same in zip(places, same, strict=True))
        source = Source(ref, self._memory.published if any(same) else None, borrowed, self._identity)
        frozen = dataclasses.replace(frozen, segments=source.fetch().segments if places else ())
        return _Published(source, frozen, states, places)


class Place(NamedTuple):
    """Where bytes are in an image that was published before."""

    segment: int
    begin: int
    end: int


def _part(segments: Sequence[Segment], place: Place) -> memoryview:
    return memoryview(segments[place.segment])[place.begin : place.end]


class Source(NamedTuple):
    """Where a pipeline is published. Small to pickle."""

    image: ray.ObjectRef[ImageParts]
    """The pipeline beside its models, with `ModelPart`s in the places of these."""
    other: store.Published | None
    """The image that has some of its segments."""
    places: tuple[Place | None, ...]
    """Of each segment, where it is in the other image, if it is there."""
    pipeline: bytes
    """What tells the caller's pipeline apart from others, whatever it is changed to."""

    def fetch(self) -> ImageParts:
        """The image, with all segments."""
        parts = store.fetch_parts(self.image)
        if self.other is None:
            return parts
        shared = store.fetch_parts(self.other).segments
        pairs = zip(parts.segments, self.places, strict=True)
        segments = tuple(segment if place is None else _part(shared, place) for segment, place in pairs)
        return dataclasses.replace(parts, segments=segments)


class _Memory:
    """The memory that a pipeline's bulk bytes lie in if they were published already, until they are others."""

    def __init__(self, assembled: Assembled) -> None:
        self.published = assembled.rest
        self._view = None if assembled.rest is None else assembled.view
        addresses = [] if self._view is None else self._view.addresses()
        self._spans = list(zip(assembled.segments, addresses, strict=True)) if addresses else []

    def segments(self) -> tuple[Segment, ...]:
        """As they were published."""
        return store.fetch_parts(self.published).segments

    def is_written(self) -> bool:
        """Whether anything may have been written to it."""
        if self._view is None or self._view.copied_bytes:
            return True
        try:
            return bool(self._view.diverged_bytes())
        except OSError:  # the kernel does not tell
            return True

    def place(self, segment: Segment) -> Place | None:
        """Where bytes that lie here were published; None: nowhere."""
        begin = np.frombuffer(segment, np.uint8).__array_interface__["data"][0]
        end = begin + memoryview(segment).nbytes
        for number, (first, last) in self._spans:
            if first <= begin < end <= last:
                return Place(number, begin - first, end - first)
        return None


def _stays_outside(cls: type) -> bool:
    return issubclass(cls, PublishedModels) or is_ray_reference(cls)


def _state_of(part: Any) -> ImageParts | None:
    """What may change of a part that stays outside: wrappers have a state. A stand-in has none, nor a reference.

    Its segments are digests, since what it borrows may be written to.
    """
    if isinstance(part, StandIn) or not isinstance(part, PublishedModels):
        return None
    frozen = freeze_roots({"part": part}, external=is_ray_reference).parts()
    return dataclasses.replace(frozen, segments=tuple(hashlib.sha256(s).digest() for s in frozen.segments))


class _Published(NamedTuple):
    """A pipeline as it was when it was put into the object store."""

    source: Source
    frozen: ImageParts
    """Its segments are those in the store."""
    states: list[ImageParts | None]
    """Of its externals."""
    places: list[Place | None]
    """Of its segments, in the caller's memory."""

    def is_of(
        self, frozen: ImageParts, states: list[ImageParts | None], places: list[Place | None], is_written: bool
    ) -> bool:
        """Whether this is what was frozen.

        Args:
            frozen: the pipeline now.
            states: of its externals.
            places: of its segments.
            is_written: whether bytes that have a place may have changed.
        """
        if not _are_alike(self.frozen, frozen) or len(self.states) != len(states):
            return False
        for before, now in zip(self.states, states, strict=True):
            if before is not now and not (before and now and _are_equal(before, now)):
                return False
        pairs = zip(self.source.places, self.places, places, self.frozen.segments, frozen.segments, strict=True)
        return all(
            (not is_written and borrowed is not None and place == now) or _have_equal_bytes(one, other)
            for borrowed, place, now, one, other in pairs
        )


def _are_equal(one: ImageParts, other: ImageParts) -> bool:
    return _are_alike(one, other) and all(map(_have_equal_bytes, one.segments, other.segments))


def _are_alike(one: ImageParts, other: ImageParts) -> bool:
    """Whether two images are the same but for the bytes of their segments.

    What is outside of them must be the very same objects.
    """
    return (
        (one.index, one.blobs) == (other.index, other.blobs)
        and (len(one.externals), len(one.segments)) == (len(other.externals), len(other.segments))
        and all(map(_is_same_part, one.externals, other.externals))
    )


def _is_same_part(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, ray.ObjectRef) and bool(one == other))


_AT_ONCE = 1 << 20
"""Bytes that are compared in one step: so many stay in the processor's cache."""


def _have_equal_bytes(one: Segment, other: Segment) -> bool:
    a, b = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    steps = range(0, a.nbytes, _AT_ONCE)
    return a.nbytes == b.nbytes and all(np.array_equal(a[n : n + _AT_ONCE], b[n : n + _AT_ONCE]) for n in steps)


class ModelPart(NamedTuple):
    """What is published in the place of a stand-in: where its model is. Small to pickle."""

    source: store.ModelInImage
    place: int | None
    """Its place among the models that are loaded together from there; None: it is loaded by itself."""
    is_program: bool

    @classmethod
    def of(cls, stand_in: StandIn) -> ModelPart:
        """The model of a stand-in."""
        source, original = source_of(stand_in), original_of(stand_in)
        if original.together is None:
            return cls(source, None, original.is_program)
        together = source._replace(skeleton=original.together, description="the models of a pipeline")
        return cls(together, original.number, original.is_program)


def _is_replaced(part: Any) -> bool:
    """Whether workers have the model itself in this place: other stand-ins call theirs in a way of their own."""
    return isinstance(part, StandIn) and public_class(part) in (StandIn, ProgramStandIn)


def _run(arrived: Any, source: Source, *referred: Any) -> Any:
    """Run one method of a pipeline.

    Args:
        arrived: the method, a `TorchMode`, `Arguments`, and how many results are wanted, as a packed tuple.
        source: where the pipeline is published.
        referred: what was given as references; being arguments of the task itself they have been resolved by Ray.

    Returns:
        What the method returns; or as many results as are wanted.
    """
    name, mode, arguments, number_of_results = unpacked(arrived)
    args, kwargs = Arguments(*arguments).filled(referred)
    with _fresh(source) as pipeline:
        result = TorchMode(*mode).call(getattr(pipeline, name), args, kwargs)
        check_has_ended(result, pipeline, name)
        if number_of_results == 1:
            return Message(result)
        return [Message(each) for each in result] if number_of_results else None


def _stream(arrived: Any, source: Source, *referred: Any) -> Iterator[Message]:
    """As `_run`, for a method that is a generator: each value leaves the worker when it is there."""
    name, mode, arguments, _ = unpacked(arrived)
    args, kwargs = Arguments(*arguments).filled(referred)
    with (
        _fresh(source) as pipeline,
        # The generator begins and ends within one mode: what it enters itself, it leaves in its own order.
        TorchMode(*mode).entered(),
        contextlib.closing(getattr(pipeline, name)(*args, **kwargs)) as values,
    ):
        for value in values:
            yield Message(value)


_RUN, _STREAM = Task(_run), Task(_stream)


def check_options(options: TaskOptions) -> None:
    """Raise what Ray raises for options that tasks of pipelines cannot have: a ValueError, or a TypeError."""
    options.check(_STREAM if isinstance(options.number_of_results, str) else _RUN)


def _fresh(source: Source) -> contextlib.AbstractContextManager[Any]:
    version = residents.Version(source.pipeline, source.image.binary())
    return residents.of_this_worker().fresh(version, functools.partial(_load, source))


def _load(source: Source) -> Thawed:
    """The pipeline, with its models in the places of its stand-ins."""
    rest = source.fetch()
    loaded: dict[Any, Thawed] = {}
    externals = tuple(_model(part, loaded) if isinstance(part, ModelPart) else part for part in rest.externals)
    root, view, _ = store.load(Image.of(dataclasses.replace(rest, externals=externals)))
    views = tuple(view for thawed in loaded.values() for view in thawed.views)
    if isinstance(root, _Program):
        return ThawedProgram(root.module(), view, views)
    return Thawed(root, view, views)


def _model(part: ModelPart, loaded: dict[Any, Thawed]) -> Any:
    """One of the pipeline's models.

    Args:
        part: which one.
        loaded: what has been loaded already, by where it is; models that share weights are loaded together.
    """
    thawed = loaded.get(part.source.key)
    if thawed is None:
        thawed = loaded[part.source.key] = store.load(part.source)
    model = thawed.root if part.place is None else thawed.root[part.place]
    return _Program(model) if part.is_program else model


class _Program:
    """An exported program where its pipeline runs: it is called itself, as its stand-in is."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._module = program.module()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, **kwargs)

    def module(self, check_guards: bool = True) -> Any:
        """What is called of a program."""
        return self._module

    def __getattr__(self, name: str) -> Any:
        if name == "_program":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._program, name)
