"""The keeper: a detached actor that owns the models that have names, so that these outlive the programs that wrap them.

A Ray object dies with the process that put it. The keeper therefore puts the models itself: a program hands it a
transient copy in the object store, which it reads in place. It holds segments by their content, so that models with
equal weights have one copy of them, and a program hands over only those that the keeper lacks. It imports neither torch
nor anything of the user's: what it keeps is bytes. Should it be lost, with its node, the one that takes its place knows
only of the models that came from files.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import pickle
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pickle import PickleBuffer
from typing import Any, Literal, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_zerocopy import _engine
from ray_zerocopy.errors import ModelLostError
from ray_zerocopy.image.parts import parts_of
from ray_zerocopy.transport import register

_log = logging.getLogger("ray_zerocopy")

Lifetime = Literal["detached"]

_NAMESPACE = "ray_zerocopy"
_NAME = "keeper"
_MOST_CALLS_AT_ONCE = 100_000
"""One for each process that waits for changes, and one for each whose models end with it."""
_WAIT_SECONDS = 600
"""After which a wait for changes is answered in any case: nobody tells of a process that ended while it waited."""


class State(NamedTuple):
    """What a keeper had at some time. Another one, started in its place, never has an equal one."""

    keeper: str
    changes: int


class ModelName(NamedTuple):
    """A model's name, unique within its namespace, which is one of Ray's."""

    name: str
    namespace: str

    @classmethod
    def here(cls, name: str, namespace: str | None = None) -> ModelName:
        """The name in a namespace; None: in this process's. Ray is started if it is not running."""
        connect()
        return cls(name, ray.get_runtime_context().namespace if namespace is None else namespace)

    def __str__(self) -> str:
        return f"{self.name!r} in the namespace {self.namespace!r}"


SegmentKey = tuple[str, int]
"""A segment's digest, and how many equal ones come before it in its image: these stay apart, as they were."""


class Offer(NamedTuple):
    """An image on its way to the keeper. Its bytes travel beside it: the body, and what segments the keeper lacks."""

    digests: tuple[str, ...]
    """Of the segments, in their order."""
    references: tuple[Any, ...]
    """Ray's references that the body leaves out."""


class Kept(NamedTuple):
    """Where the keeper has an image. As long as anybody holds this, the image stays there.

    Only Ray is to pickle it, as part of an argument or a result: other pickles pin the image for as long as the
    process lives that made them.
    """

    body: ray.ObjectRef[Any]
    """All of the image but its segments and Ray's references."""
    bundles: tuple[ray.ObjectRef[Any], ...]
    """Lists of segments, of this image and of others."""
    places: tuple[tuple[int, int], ...]
    """Of each segment the bundle, and its index in that."""
    references: tuple[Any, ...]


class Version(NamedTuple):
    """What a name stands for."""

    head: bytes
    """What the wrappers know of the model; the keeper does not read it."""
    images: tuple[Kept, ...]


class KeptModel(NamedTuple):
    """A model that has a name, as `list_models` shows it."""

    name: str
    namespace: str
    kind: str
    """The class that wrapped it, such as `ActorWrapper`."""
    nbytes: int
    """Bytes of its weights in the object store of each node that uses it, shared ones included."""
    created: datetime
    """When it was published, or last replaced."""
    lifetime: Lifetime | None
    shares_with: tuple[str, ...]
    """The names of the models that have some of these weights, in the same copy."""


class Source(NamedTuple):
    """A file that an image was published from, and can be again."""

    path: str
    """Absolute."""
    digest: str


class Publication(NamedTuple):
    """What a program asks the keeper to keep."""

    name: ModelName
    kind: str
    lifetime: Lifetime | None
    replace: bool
    head: bytes
    offers: tuple[Offer, ...]
    source: Source | None = None
    """The file that holds the one image, if any."""


class _Answer(NamedTuple):
    version: Version | None
    names: tuple[ModelName, ...]
    """All that there are, where there is no such version."""
    is_restarted: bool
    """Whether the keeper has lost what it had."""


class _Place(NamedTuple):
    bundle: ray.ObjectRef[Any]
    number: int
    nbytes: int


class _Model(NamedTuple):
    version: Version
    keys: frozenset[SegmentKey]
    kind: str
    created: datetime
    lease: ray.ObjectRef[Any] | None


class Keeper:
    """The actor. All its methods run in one thread, and none is interrupted by another but where it awaits."""

    def __init__(self) -> None:
        self._is_restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._models: dict[ModelName, _Model] = {}
        self._places: dict[SegmentKey, _Place] = {}
        self._watches: dict[ray.ObjectRef[Any], asyncio.Task[None]] = {}
        self._pending: dict[str, asyncio.Event] = {}
        self._state = State(uuid.uuid4().hex, 0)
        self._next_change = asyncio.Event()
        if self._is_restarted:
            self._restore()

    def _restore(self) -> None:
        """Publish again what its predecessor published from files, as far as this node has them."""
        for asked in register.records():
            try:
                self._models[asked.name] = self._published_from_file(asked)
            except (OSError, ValueError, RayError) as error:
                _log.warning("The model %s is lost with the actor that kept it: %s", asked.name, error)
        self._release_unused()

    def _published_from_file(self, asked: Publication) -> _Model:
        source = asked.source
        if source is None:
            raise ValueError("it did not come from a file")
        file = _engine.Image.open(source.path)
        if file.digest != source.digest:
            raise ValueError(f"the file {source.path!r} has another content now")
        segments: list[PickleBuffer] = []
        body = pickle.dumps(parts_of(file), protocol=5, buffer_callback=segments.append)
        offer = Offer(tuple(map(_engine.digest, segments)), ())
        keys = segment_keys(offer.digests)
        image = self._keep(offer, body, dict(zip(keys, segments, strict=True)))
        return _Model(Version(asked.head, (image,)), frozenset(keys), asked.kind, datetime.now(UTC), None)

    async def publish(
        self,
        asked: Publication,
        lease: Sequence[ray.ObjectRef[Any]],
        bodies: Sequence[Any],
        *sent: Mapping[SegmentKey, Any],
    ) -> tuple[SegmentKey, ...] | None:
        """Keep a model under a name, in one step.

        Args:
            asked: what to keep.
            lease: the result of `pending` that the name is not to outlive, if any.
            bodies: of each image, in the object store.
            sent: segments, in the object store; what of them is here already is passed over.

        Returns:
            The segments that are neither here nor sent: if there are any, nothing was changed. None: the name is
            taken, and nothing was changed.
        """
        if asked.name in self._models and not asked.replace:
            return None
        arrived = {key: segment for part in sent for key, segment in part.items()}
        keys = dict.fromkeys(key for offer in asked.offers for key in segment_keys(offer.digests))
        lacking = tuple(key for key in keys if key not in self._places and key not in arrived)
        if lacking:
            return lacking
        try:
            images = tuple(self._keep(offer, body, arrived) for offer, body in zip(asked.offers, bodies, strict=True))
            model = _Model(
                Version(asked.head, images),
                frozenset(keys),
                asked.kind,
                datetime.now(UTC),
                next(iter(lease), None),
            )
            self._models[asked.name] = model
        finally:
            self._release_unused()
        self._note_change()
        if asked.source is not None and model.lease is None:  # a name of a process goes with that
            register.put(_key(asked.name), asked._replace(offers=()))
        else:
            register.forget(_key(asked.name))
        if model.lease is not None and model.lease not in self._watches:
            self._watches[model.lease] = asyncio.ensure_future(self._watch(model.lease))
        await self._repack()
        return ()

    def _keep(self, offer: Offer, body: Any, arrived: Mapping[SegmentKey, Any]) -> Kept:
        """Put what of an image is not here yet: its body as an object, its segments as another."""
        kept_body = ray.put([PickleBuffer(body)])
        keys = segment_keys(offer.digests)
        new = [key for key in keys if key not in self._places]
        if new:
            bundle = ray.put([PickleBuffer(arrived[key]) for key in new])
            for index, key in enumerate(new):
                self._places[key] = _Place(bundle, index, memoryview(arrived[key]).nbytes)
        places = [self._places[key] for key in keys]
        bundles = {bundle: number for number, bundle in enumerate(dict.fromkeys(place.bundle for place in places))}
        indices = tuple((bundles[place.bundle], place.number) for place in places)
        return Kept(kept_body, tuple(bundles), indices, offer.references)

    def _release_unused(self) -> None:
        """Let go of the bundles that no model needs any segment of."""
        bundles = {self._places[key].bundle for key in self._needed()}
        self._places = {key: place for key, place in self._places.items() if place.bundle in bundles}

    async def _repack(self) -> None:
        """Move what is needed out of bundles that for the most part are not, and would stay for its sake."""
        total: Counter[Any] = Counter()
        needed: Counter[Any] = Counter()
        for place in self._places.values():
            total[place.bundle] += place.nbytes
        for key in self._needed():
            needed[self._places[key].bundle] += self._places[key].nbytes
        for bundle in total:
            if 2 * needed[bundle] < total[bundle]:
                try:
                    self._move_needed(bundle, await bundle)
                except RayError as error:  # lost, or there is no room: it stays as it is
                    _log.warning("Weights that are not needed stay in the object store for now: %s", error)

    def _needed(self) -> dict[SegmentKey, None]:
        return dict.fromkeys(key for model in self._models.values() for key in model.keys)

    def _move_needed(self, bundle: ray.ObjectRef[Any], segments: Sequence[Any]) -> None:
        keys = [key for key in self._needed() if self._places[key].bundle == bundle]
        if not keys:  # they were freed meanwhile
            return
        target = ray.put([PickleBuffer(segments[self._places[key].number]) for key in keys])
        moved = {}
        for number, key in enumerate(keys):
            place = self._places[key]
            moved[place.bundle, place.number] = self._places[key] = place._replace(bundle=target, number=number)
        for name, model in self._models.items():
            images = tuple(_moved(image, moved) for image in model.version.images)
            self._models[name] = model._replace(version=model.version._replace(images=images))
        self._release_unused()

    def _note_change(self) -> None:
        self._state = self._state._replace(changes=self._state.changes + 1)
        self._next_change.set()
        self._next_change = asyncio.Event()

    async def changed(self, seen: State | None) -> State:
        """Wait until names do not all stand for what they did in the state `seen`, or until some minutes have passed.

        Returns:
            The state now.
        """
        if seen == self._state:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._next_change.wait(), _WAIT_SECONDS)
        return self._state

    async def pending(self) -> None:
        """Does not return: its result, which its caller owns, is lost when the process of the caller ends."""
        task = str(ray.get_runtime_context().get_task_id())
        self._pending[task] = asyncio.Event()
        await self._pending[task].wait()

    async def _watch(self, lease: Any) -> None:
        try:
            await lease
        except RayError:  # its owner has ended
            for name in [name for name, model in self._models.items() if model.lease == lease]:
                del self._models[name]
            self._release_unused()
            self._note_change()
            self._pending.pop(lease.task_id().hex()).set()  # which ends the call that nobody waits for
            await self._repack()
        del self._watches[lease]

    async def find(self, name: ModelName, with_images: bool = True) -> _Answer:
        """What a name stands for; without the images, whose references take their time."""
        model = self._models.get(name)
        if model is None:
            return _Answer(None, tuple(self._models), self._is_restarted)
        return _Answer(model.version if with_images else model.version._replace(images=()), (), self._is_restarted)

    async def free(self, name: ModelName) -> _Answer:
        """Forget a name. What it stood for stays as long as anybody uses it."""
        answer = await self.find(name, with_images=False)
        self._models.pop(name, None)
        register.forget(_key(name))
        self._release_unused()
        self._note_change()
        await self._repack()
        return answer

    async def models(self) -> list[KeptModel]:
        """All models, by namespace and name."""
        found = []
        for name, model in sorted(self._models.items(), key=lambda item: (item[0].namespace, item[0].name)):
            others = sorted(o.name for o, other in self._models.items() if o != name and other.keys & model.keys)
            nbytes = sum(self._places[key].nbytes for key in model.keys)
            lifetime: Lifetime | None = "detached" if model.lease is None else None
            found.append(KeptModel(*name, model.kind, nbytes, model.created, lifetime, tuple(others)))
        return found


def _key(name: ModelName) -> str:
    return json.dumps(name)


def _moved(image: Kept, moved: Mapping[tuple[ray.ObjectRef[Any], int], _Place]) -> Kept:
    """An image of which some segments lie elsewhere now."""
    old = [(image.bundles[bundle], number) for bundle, number in image.places]
    new = [(moved[place].bundle, moved[place].number) if place in moved else place for place in old]
    bundles = {bundle: number for number, bundle in enumerate(dict.fromkeys(bundle for bundle, _ in new))}
    return image._replace(bundles=tuple(bundles), places=tuple((bundles[bundle], number) for bundle, number in new))


def segment_keys(digests: Iterable[str]) -> list[SegmentKey]:
    """The keys of an image's segments, given their digests in their order."""
    seen: dict[str, int] = {}
    keys = []
    for digest in digests:
        seen[digest] = seen.get(digest, -1) + 1
        keys.append((digest, seen[digest]))
    return keys


def is_taken(name: ModelName) -> bool:
    """Whether there is a model of this name."""
    keeper = _existing()
    return keeper is not None and ray.get(keeper.find.remote(name, with_images=False)).version is not None


def publish(asked: Publication, bodies: Sequence[PickleBuffer], segments: Mapping[SegmentKey, PickleBuffer]) -> None:
    """Have a model kept under a name; it is visible under it to everybody when this returns.

    Only the segments that the keeper lacks are put into the object store. Where it gives some up while others are on
    their way to it, it says so, and these follow.

    Args:
        asked: what to keep.
        bodies: of each image.
        segments: of all images.

    Raises:
        ValueError: the name is taken, and not to be replaced.
    """
    keeper = _started()
    lease = [] if asked.lifetime == "detached" else [_lease(keeper, ray.get_runtime_context().get_worker_id())]
    transient = [ray.put(list(bodies))]
    while lacking := ray.get(keeper.publish.remote(asked, lease, *transient)):
        transient.append(_put({key: segments[key] for key in lacking}))
    if lacking is None:
        raise taken(asked.name)


def _put(segments: dict[SegmentKey, PickleBuffer]) -> ray.ObjectRef[Any]:
    return ray.put(segments)


def taken(name: ModelName) -> ValueError:
    """The error for a name that is in use."""
    return ValueError(
        f"There is a model {name} already. Choose another name, give replace=True to have new loads get the new "
        f"model, or free the other: ray_zerocopy.get_wrapper({name.name!r}).free()."
    )


def find(name: ModelName, with_images: bool = True) -> Version:
    """The present version of a model.

    Args:
        name: the model's.
        with_images: False: its head alone is needed, which comes faster.

    Raises:
        ValueError: there is none of that name; the message lists those that there are.
        ModelLostError: the same, after the keeper was restarted and lost all that it had.
    """
    keeper = _existing()
    answer = _Answer(None, (), False) if keeper is None else ray.get(keeper.find.remote(name, with_images))
    if answer.version is None:
        raise _unknown(name, answer)
    return answer.version


def free(name: ModelName) -> None:
    """Forget a model's name; the store's copy goes when nobody uses it any more. Nothing happens to loaded ones.

    Raises:
        ValueError, ModelLostError: as `find`.
    """
    keeper = _existing()
    answer = _Answer(None, (), False) if keeper is None else ray.get(keeper.free.remote(name))
    if answer.version is None:
        raise _unknown(name, answer)


def list_models() -> list[KeptModel]:
    """The models of the cluster that have names, of all namespaces, by namespace and name."""
    connect()
    keeper = _existing()
    return [] if keeper is None else ray.get(keeper.models.remote())


def _unknown(name: ModelName, answer: _Answer) -> ValueError | ModelLostError:
    if answer.is_restarted:
        return ModelLostError(
            f"There is no model {name}. The actor that keeps named models was lost, most likely with its node, and "
            "was started again without what it had. Wrap the model again under this name: "
            f"ActorWrapper(pipeline, name={name.name!r}, lifetime='detached'), or as it was wrapped before."
        )
    names = ", ".join(map(str, sorted(answer.names))) or "none at all"
    elsewhere = [other.namespace for other in answer.names if other.name == name.name]
    advice = f" For one of another namespace: get_wrapper({name.name!r}, {elsewhere[0]!r})." if elsewhere else ""
    return ValueError(f"There is no model {name}. There are: {names}.{advice}")


def wait_for_change(seen: State | None) -> Future[State] | None:
    """When names do not all stand for what they did in the state `seen`: the state then.

    It is answered after some minutes in any case, and fails when the keeper is lost for good. None: there is no keeper.
    """
    keeper = _existing()
    return None if keeper is None else keeper.changed.remote(seen).future()


def connect() -> None:
    """Start Ray if it is not running."""
    if not ray.is_initialized():
        ray.init()


def _existing() -> Any | None:
    try:
        return ray.get_actor(_NAME, _NAMESPACE)
    except ValueError:
        return None


def _started() -> Any:
    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(Keeper)
        .options(
            name=_NAME,
            namespace=_NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=_MOST_CALLS_AT_ONCE,
            # Preferred, so that the first model need not move to another node: Ray may take any other.
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
        )
        .remote()
    )


@functools.lru_cache(maxsize=1)
def _lease(keeper: Any, worker: str) -> ray.ObjectRef[Any]:
    """What tells a keeper of the end of this process: one for each keeper and each connection to Ray."""
    ref: ray.ObjectRef[Any] = keeper.pending.remote()
    return ref
