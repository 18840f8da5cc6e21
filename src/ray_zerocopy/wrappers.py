"""The public classes: who runs the models, Ray tasks or the actor that loaded them."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, NoReturn, TypeVar

from ray_zerocopy.errors import ModelLostError
from ray_zerocopy.image import Image
from ray_zerocopy.image.devices import Device, checked
from ray_zerocopy.image.held import Held
from ray_zerocopy.image.models import PublishedModels, check_holds_script
from ray_zerocopy.tasks.calls import GivesWay, ValueGivesWay, WithOptions, attribute, results, start
from ray_zerocopy.tasks.pipelines import RemotePipeline
from ray_zerocopy.tasks.results import Results
from ray_zerocopy.tasks.special_methods import OWN, SpecialMethods, apply, public_class, supporting
from ray_zerocopy.tasks.stand_ins import Assembled, assembled, freeze_parts, held_by, put_together
from ray_zerocopy.transport import current, keeper, named, store
from ray_zerocopy.transport.current import Current
from ray_zerocopy.transport.keeper import Lifetime, ModelName
from ray_zerocopy.transport.pipelines import (
    PipelineSkeleton,
    description_of,
    freeze_pipeline,
    load_pipeline_in_actor,
    published_pipeline,
)
from ray_zerocopy.transport.saved import FileSource, Saved, load, opened

if TYPE_CHECKING:
    import ray

P = TypeVar("P")
A = TypeVar("A", bound="ActorWrapper[Any]")


class _OfTheClass(classmethod):  # type: ignore[type-arg]
    """A class method that wrappers themselves do not have: there the name is the pipeline's."""

    def __get__(self, wrapper: Any, owner: type | None = None) -> Any:
        if wrapper is None:
            return super().__get__(None, owner)
        return wrapper.__getattr__(self.__func__.__name__)


class TaskWrapper(PublishedModels, Generic[P]):
    """A copy of a pipeline whose own code runs in the caller, and whose models run as Ray tasks, on any worker.

    Or all of it runs in one task: `wrapper.remote(x)` gives a reference to the result, as any remote function of Ray's.

    The models' weights are in the object store once for each node, and every call is as if it had a fresh model: what a
    model changes in itself, no other call sees. Calling the wrapper calls the pipeline; attributes, methods and special
    methods (`len`, `[]`, iteration, `with`) are the pipeline's. Picklable: it works inside other tasks and actors. The
    pipeline it is given is not changed; Ray is started if it is not running.

    A task needs one CPU of the cluster, or none where an actor starts it; `options` says otherwise. While no node has
    one free for a model, a warning of the logger `ray_zerocopy` says so, now and then.

    What would change a model (`load_state_dict`, `half`, `to`, `train`, setting an attribute) raises an
    `AttributeError`, since tasks go on with the model as it was published: change the pipeline and wrap it again.

    Args:
        pipeline: any picklable object holding models, wherever they are in it; or a model.
        method_names: the models' methods that run as tasks, besides `__call__`; a model that lacks one is passed over.
            Other methods and attributes of a model are answered in the caller, by a copy that shares the weights: what
            is changed in that copy, tasks do not see.
        name: what `get_wrapper` finds it by, in this namespace of Ray's. The wrapper then pickles as its name: what is
            unpickled, whenever and wherever that is, is the model that has the name then.
        lifetime: "detached": it outlives this process, until it is freed; None: it ends with this process.
        replace: whether the name may be in use: what was loaded by it stays valid, and new loads get this model.

    Raises:
        TypeError: something in the pipeline cannot be pickled (the message gives the path to it); it holds no model, or
            is a class or a path; or `method_names` is not a sequence of names.
        AttributeError: no model of the pipeline has one of `method_names`; the message names it.
        ValueError: the name is in use; or a lifetime is given without one.
    """

    _ray_zerocopy_pipeline: P  # all other names are the pipeline's
    _ray_zerocopy_remote: RemotePipeline
    _ray_zerocopy_name: ModelName | None

    def __init__(
        self,
        pipeline: P,
        method_names: Sequence[str] = ("__call__",),
        *,
        name: str | None = None,
        lifetime: Lifetime | None = None,
        replace: bool = False,
    ) -> None:
        naming = named.checked(name, lifetime, replace)
        if naming is None:
            _hold(self, assembled(pipeline, method_names))
        else:
            named.publish(naming, public_class(self), None, freeze_parts(pipeline, method_names))
            _hold(self, _found_pipeline(named.find(naming.name)), naming.name)

    @_OfTheClass
    def from_file(
        cls: Any,  # noqa: N805
        path: str | os.PathLike[str],
        method_names: Sequence[str] | None = None,
        *,
        name: str | None = None,
        lifetime: Lifetime | None = None,
        replace: bool = False,
    ) -> Any:
        """Wrap the pipeline that `save` wrote to a file; its weights go from the file to the object store.

        This process makes no private copy of them. The file is not needed any more when this returns. The pipeline is
        unpickled here, which can run any code: see `load`.

        Args:
            path: of the file, seen from this process.
            method_names: as for the class; None: those that the class has without being told.
            name: as for the class.
            lifetime: as for the class.
            replace: as for the class.

        Raises:
            OSError, ValueError: as `load`.
            TypeError, AttributeError, ValueError: as the class.
        """
        methods = () if method_names is None else (method_names,)
        return cls(load(path), *methods, name=name, lifetime=lifetime, replace=replace)

    @GivesWay
    def remote(self, *args: Any, **kwargs: Any) -> ray.ObjectRef[Any]:
        """Run the whole pipeline in one task, on a copy that the worker keeps; each call finds it fresh.

        The copy has the models themselves in it. What the pipeline is beside them goes along as it is here and now;
        what the call changes in the copy, nobody sees. The pipeline's methods have the same:
        `wrapper.encode.remote(x)`.

        A pipeline's own `remote` goes before this one, which is then called as `TaskWrapper.remote(wrapper, x)`; so do
        its `options`, `map` and `map_unordered`.

        Args:
            args: of the pipeline. References among them are resolved, as in any task.
            kwargs: likewise.

        Returns:
            A reference to what the pipeline returns: for `ray.get`, `ray.wait`, `await`, and as an argument of other
            tasks. An exception arrives as its own type and as a `ray.exceptions.RayTaskError`. A method that is a
            generator gives a `ray.ObjectRefGenerator`.

        Raises:
            TypeError: the pipeline cannot be called; or something in it, or in the arguments, cannot be pickled.
        """
        return start(self, "__call__", args, kwargs)  # type: ignore[no-any-return]

    @GivesWay
    def options(self, **options: Any) -> WithOptions:
        """The wrapper, with options for its tasks: `wrapper.options(num_gpus=1, max_retries=0).remote(x)`.

        Args:
            options: as for `ray.remote`. Without them a task needs one CPU (none, if an actor starts it), and is
                retried three times if its worker dies.

        Returns:
            What has `remote`, `map`, `map_unordered`, `options` and the pipeline's methods, and can be called: then the
            tasks of the models have the options. Threads that the pipeline starts do not inherit them.

        Raises:
            ValueError, TypeError: Ray does not know one of the options, or it has another value than Ray expects.
        """
        return WithOptions.of(self, options)

    @GivesWay
    def map(self, inputs: Iterable[Any], *, max_in_flight: int | None = None, progress: bool = False) -> Results:
        """Run the whole pipeline for each input, each in a task; the results come in the order of the inputs.

        Args:
            inputs: each is the one argument of a call. They are read as results are asked for, so there may be
                infinitely many.
            max_in_flight: how many tasks may have been started whose results have not been asked for. None: twice as
                many as the cluster has CPUs, and at least 4.
            progress: whether to show how many are done: a bar if `tqdm` is installed, otherwise messages of the logger
                `ray_zerocopy`.

        Returns:
            An iterator. It raises the exception of a task in its result's place, and may be asked for the next result
            after that. `close()`, or letting go of it, cancels what is in flight.

        Raises:
            TypeError: as `remote`; or `inputs` cannot be iterated over.
            ValueError: `max_in_flight` is not a number of 1 or more.
        """
        return results(self, "__call__", inputs, max_in_flight, progress, is_ordered=True)

    @GivesWay
    def map_unordered(
        self, inputs: Iterable[Any], *, max_in_flight: int | None = None, progress: bool = False
    ) -> Results:
        """As `map`, but each result comes as soon as it is there."""
        return results(self, "__call__", inputs, max_in_flight, progress, is_ordered=False)

    @GivesWay
    def free(self) -> None:
        """Give the model up, and its name, if it has one; the object store lets go of it when nobody uses it any more.

        The wrapper cannot be used afterwards: that raises a `RuntimeError`. Other processes go on with what they have
        loaded. A pipeline's own `free` goes before this one, which is then called as `TaskWrapper.free(wrapper)`; and
        a pipeline that is a context manager goes before the wrapper, which otherwise is one itself: `with
        TaskWrapper(pipeline) as wrapper:` frees it at the end.
        """
        vars(self).pop("_ray_zerocopy_remote", None)
        if vars(self).pop("_ray_zerocopy_pipeline", None) is not None:
            object.__setattr__(self, "__class__", public_class(self))  # without the pipeline's special methods
            if self._ray_zerocopy_name is not None:
                _free_name(self._ray_zerocopy_name)

    @ValueGivesWay
    def nbytes(self) -> int:
        """An attribute: bytes of the pipeline's weights. A pipeline's own `nbytes` goes before this one.

        Raises:
            RuntimeError: the wrapper was freed.
        """
        return held_by(self._ray_zerocopy_pipeline).nbytes

    def __enter__(self) -> TaskWrapper[P]:
        return self

    def __exit__(self, *error: object) -> None:
        TaskWrapper.free(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline. An exception in a task arrives as its own type and as a `ray.exceptions.RayTaskError`.

        Raises:
            RuntimeError: no node of the cluster has a CPU for a task, and no autoscaler can add one.
        """
        pipeline: Any = self._ray_zerocopy_pipeline
        return pipeline(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("_ray_zerocopy_pipeline", "_ray_zerocopy_remote"):
            raise RuntimeError(_freed(self))
        if name in OWN or name == "_ray_zerocopy_name":  # that is missing after an error in __init__
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        try:
            return attribute(self, self._ray_zerocopy_pipeline, name)
        except AttributeError as error:
            if name != "load":
                raise
            raise AttributeError(
                f"A {type(self).__name__} is called as it is, and the pipeline has no method load(). "
                "To load a pipeline in an actor, wrap it with ActorWrapper."
            ) from error

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ray_zerocopy_pipeline, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._ray_zerocopy_pipeline, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._ray_zerocopy_pipeline)})

    def __repr__(self) -> str:
        kind, pipeline = public_class(self).__name__, vars(self).get("_ray_zerocopy_pipeline")
        if pipeline is None:
            return f"<{kind}, freed>"
        origin = "" if self._ray_zerocopy_name is None else f" {self._ray_zerocopy_name}"
        held: Any = type(pipeline).__name__
        with contextlib.suppress(Exception):  # it was given something since then that cannot be pickled, say
            held = held_by(pipeline)
        return f"<{kind}{origin} of {held}: its models run as Ray tasks>"

    def __reduce__(self) -> tuple[Any, ...]:
        pipeline = self._ray_zerocopy_pipeline
        if self._ray_zerocopy_name is not None:
            return _named_task_wrapper, (self._ray_zerocopy_name,)
        return _task_wrapper_of, (public_class(self), pipeline)

    def __copy__(self) -> TaskWrapper[P]:
        return _task_wrapper_of(public_class(self), copy.copy(self._ray_zerocopy_pipeline), self._ray_zerocopy_name)


def _hold(wrapper: TaskWrapper[Any], held: Assembled, name: ModelName | None = None) -> None:
    """Make it the wrapper of this pipeline, with the special methods of that."""
    supports = supporting(type(wrapper), SpecialMethods.of(type(held.pipeline)), _answer_special)
    object.__setattr__(wrapper, "__class__", supports)
    object.__setattr__(wrapper, "_ray_zerocopy_pipeline", held.pipeline)
    object.__setattr__(wrapper, "_ray_zerocopy_remote", RemotePipeline(held))
    object.__setattr__(wrapper, "_ray_zerocopy_name", name)


def _freed(wrapper: object) -> str:
    return f"This {type(wrapper).__name__} was freed: wrap the pipeline again, or get another model by its name."


def _free_name(name: ModelName) -> None:
    with contextlib.suppress(ValueError, ModelLostError):  # somebody else freed it
        keeper.free(name)


def _answer_special(wrapper: TaskWrapper[Any], name: str, /, *args: Any, **kwargs: Any) -> Any:
    pipeline = wrapper._ray_zerocopy_pipeline
    result = apply(name, pipeline, *args, **kwargs)
    if result is NotImplemented and args and isinstance(args[0], TaskWrapper):  # operators between two pipelines
        result = apply(name, pipeline, args[0]._ray_zerocopy_pipeline)
    return wrapper if result is pipeline else result


def _task_wrapper_of(cls: type[TaskWrapper[P]], pipeline: P, name: ModelName | None = None) -> TaskWrapper[P]:
    return _task_wrapper_holding(cls, Assembled(pipeline), name)


def _task_wrapper_holding(cls: type[TaskWrapper[P]], held: Assembled, name: ModelName | None) -> TaskWrapper[P]:
    wrapper = cls.__new__(cls)
    _hold(wrapper, held, name)
    return wrapper


def _found_pipeline(found: named.Found) -> Assembled:
    models, rest = found.images
    return put_together(models, store.fetch(rest)[0], rest)


def _named_task_wrapper(name: ModelName) -> TaskWrapper[Any]:
    found = named.find(name)
    _check_class(found, name, TaskWrapper)
    return _task_wrapper_holding(found.wrapper_class, _found_pipeline(found), name)


def _check_class(found: named.Found, name: ModelName, expected: type) -> None:
    if not issubclass(found.wrapper_class, expected):
        raise TypeError(
            f"The model {name} was wrapped with {expected.__name__}, and has been replaced by one that is wrapped with "
            f"{found.wrapper_class.__name__}: use ray_zerocopy.get_wrapper({name.name!r})."
        )


class JITTaskWrapper(TaskWrapper[P]):
    """`TaskWrapper` for pipelines with TorchScript modules.

    Args:
        pipeline: any picklable object holding `torch.jit.ScriptModule`s, wherever they are in it; or one.
        method_names: as for `TaskWrapper`.
        name: as for `TaskWrapper`.
        lifetime: as for `TaskWrapper`.
        replace: as for `TaskWrapper`.

    Raises:
        TypeError: the pipeline holds no TorchScript module; or as `TaskWrapper`.
        ValueError: as `TaskWrapper`.
    """

    def __init__(
        self,
        pipeline: P,
        method_names: Sequence[str] = ("__call__", "forward"),
        *,
        name: str | None = None,
        lifetime: Lifetime | None = None,
        replace: bool = False,
    ) -> None:
        check_holds_script(pipeline)
        super().__init__(pipeline, method_names, name=name, lifetime=lifetime, replace=replace)


_LOAD = (
    "The pipeline is what load() gives. In the class of an actor, or the class given to map_batches, write "
    "`self.pipeline = wrapper.load()` in __init__, and use self.pipeline."
)
_MAP_BATCHES = (
    'Then it is ds.map_batches(Worker, fn_constructor_kwargs={"wrapper": wrapper}, concurrency=2), Worker being that '
    "class; or ds.map_batches(TaskWrapper(pipeline), concurrency=2), which is called as it is."
)


Share = Literal["store", "file"]


class _Settings(NamedTuple):
    """What an `ActorWrapper` knows beside the image."""

    models: tuple[str, ...]
    description: str
    held: Held
    device: Device | None
    use_fast_load: bool
    file: FileSource | None = None
    """The file that the image was published from."""
    share: Share = "store"

    @property
    def shared_file(self) -> FileSource | None:
        """Where nodes that have it load the pipeline from; None: all load it from the store."""
        return self.file if self.share == "file" else None


class _Source(NamedTuple):
    """Where an `ActorWrapper` loads from."""

    image: store.Published
    settings: _Settings


class ActorWrapper(PublishedModels, Generic[P]):
    """A pipeline for actors: pass the wrapper to an actor and call `load()` in the actor's `__init__`.

    Wrapping publishes the pipeline once; each `load()` gives a whole, independent pipeline whose weights are the node's
    one copy until they are written to: no other worker and no other load sees what is written. The pipeline given is
    not changed; Ray is started if it is not running. Small to pickle; several threads may load at once.

    Args:
        pipeline: any picklable object holding models, wherever they are in it; or a model.
        model_attr_names: attributes whose weights are to be shared; all else is private to each load. None: share all.
        device: where `load()` puts the tensors; None: on the CPU.
        use_fast_load: accepted and reported for compatibility; loading is always fast.
        name: what `get_wrapper` finds it by, in this namespace of Ray's. The wrapper then pickles as its name, and
            `load()` gives the model that has the name then.
        lifetime: "detached": it outlives this process, until it is freed; None: it ends with this process.
        replace: whether the name may be in use: what was loaded by it stays valid, and new loads get this model.

    Raises:
        AttributeError: the pipeline lacks one of `model_attr_names`; the message names it.
        TypeError: something in the pipeline cannot be pickled (the message gives the path to it); it holds neither a
            model nor a tensor nor a numpy array, or is a class or a path; or `model_attr_names` is not a sequence of
            names.
        ValueError: `device` is not a device; the message names it. Or the name is in use; or a lifetime is given
            without one.
    """

    def __init__(
        self,
        pipeline: P,
        model_attr_names: Sequence[str] | None = None,
        device: Device | None = None,
        use_fast_load: bool = False,
        *,
        name: str | None = None,
        lifetime: Lifetime | None = None,
        replace: bool = False,
    ) -> None:
        checked(device)
        naming = named.checked(name, lifetime, replace)
        image, models, description, held = freeze_pipeline(pipeline, model_attr_names, join=naming is None)
        self._publish(naming, image, _Settings(models, description, held, device, use_fast_load))

    @classmethod
    def from_file(
        cls: type[A],
        path: str | os.PathLike[str],
        *,
        device: Device | None = None,
        name: str | None = None,
        lifetime: Lifetime | None = None,
        replace: bool = False,
        share: Share = "store",
    ) -> A:
        """Wrap the pipeline that `save` wrote to a file, without unpickling it here.

        Its weights go straight from the file to this node's object store: this process makes no private copy of them.
        Workers unpickle the pipeline, which can run any code: see `load`.

        Args:
            path: of the file, seen from this process.
            device: as for the class.
            name: as for the class. With `lifetime="detached"` the cluster remembers the file as well: should the actor
                that keeps named models be lost, with its node, the one that takes its place publishes the file again,
                if its own node has it at the same path with the same content.
            lifetime: as for the class.
            replace: as for the class.
            share: what the workers of a node share. "store": the copy in the node's object store. "file": the file
                itself, on nodes that have it at the same path with the same content, so that the model need not be
                brought to their stores; other nodes share the store's copy, which is made here in any case.

        Raises:
            OSError: there is no such file, or it cannot be opened.
            TypeError: the file holds no TorchScript module, and this is a `JITActorWrapper`.
            ValueError: it is not a file that `save` wrote, or it is damaged; `share` is something else; or as the
                class.
        """
        if share not in ("store", "file"):
            raise ValueError(f"Expected 'store' or 'file' for share=, got {share!r}.")
        checked(device)
        naming = named.checked(name, lifetime, replace)
        saved = opened(path)
        cls._check_saved(saved)
        file = FileSource(saved.path, saved.digest)
        settings = _Settings(saved.models, description_of(saved.class_name), saved.held, device, False, file, share)
        wrapper = object.__new__(cls)
        wrapper._publish(naming, saved.image, settings)
        return wrapper

    @classmethod
    def _check_saved(cls, saved: Saved) -> None:
        """Raises a TypeError for a file that this class does not wrap."""

    def _publish(self, naming: named.Naming | None, image: Image, settings: _Settings) -> None:
        self._source: _Source | ModelName | None
        """Where to load from, or the name that says it; None: the wrapper was freed."""
        self._held: Held = settings.held
        if naming is None:
            self._source = _Source(store.publish(image), settings)
        else:
            named.publish(naming, type(self), settings, [image], settings.file)
            self._source = naming.name

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise a TypeError that says to call `load()`: a function would load the pipeline for each call."""
        raise TypeError(f"An {type(self).__name__} cannot be called. {_LOAD} {_MAP_BATCHES}")

    def __getattr__(self, name: str) -> NoReturn:
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        is_special = name.startswith("__") and name.endswith("__")
        raise AttributeError(message if is_special else f"{message}. {_LOAD}", name=name, obj=self)

    def __getstate__(self) -> dict[str, Any]:
        # What the name stands for may be another model by then; and each copy keeps a pipeline of its own.
        return {name: value for name, value in vars(self).items() if name not in ("_held", "_kept")}

    def __repr__(self) -> str:
        source = vars(self).get("_source")  # which is missing after an error in __init__
        if "_source" in vars(self) and source is None:
            return f"<{type(self).__name__}, freed>"
        held = source.settings.held if isinstance(source, _Source) else vars(self).get("_held")
        origin = f" {source}" if isinstance(source, ModelName) else ""
        if isinstance(source, _Source) and source.settings.file is not None:
            where = "the file where a node has it, else the store" if source.settings.share == "file" else "the store"
            origin = f" from file {source.settings.file.path!r}, shared through {where}"
        what = "" if held is None else f" of {held}"
        return f"<{type(self).__name__}{origin}{what}: its load(), called in an actor, gives the pipeline>"

    @property
    def nbytes(self) -> int:
        """Bytes of the pipeline's weights; of a model that has a name, those of the present one.

        Raises:
            RuntimeError: the wrapper was freed.
            ValueError: there is no model of the wrapper's name any more.
        """
        return self._present().settings.held.nbytes

    def _present(self) -> _Source:
        """Where to load from now."""
        source = self._source
        if source is None:
            raise RuntimeError(_freed(self))
        if isinstance(source, _Source):
            return source
        found = named.find(source)
        _check_class(found, source, ActorWrapper)
        self._held = found.settings.held
        return _Source(found.images[0], found.settings)

    @property
    def constructor_kwargs(self) -> dict[str, Any]:
        """Arguments for `ray_zerocopy.actor.load_pipeline_in_actor`, to hand to an actor instead of the wrapper.

        Of a model that has a name they are those of the present one, and stay so.
        """
        image, settings = self._present()
        skeleton, refs = published_pipeline(image, settings.models, settings.description, settings.shared_file)
        return {
            "pipeline_skeleton": skeleton,
            "model_refs": refs,
            "device": settings.device,
            "use_fast_load": settings.use_fast_load,
        }

    def load(self, device: Device | None = None) -> P:
        """A pipeline of the caller's own, models in eval mode.

        Args:
            device: where its tensors go; None: where the constructor was told.

        Raises:
            ValueError: `device` is not a device; or there is no model of the wrapper's name any more.
            RuntimeError: this process lacks the device; the message says which it has. Or the wrapper was freed.
            ModelLostError: the process that wrapped the pipeline has ended, or the node that has the weights is gone.
        """
        return self._loaded_from(self._present(), device)

    def _loaded_from(self, source: _Source, device: Device | None = None) -> P:
        image, settings = source
        name = self._source.name if isinstance(self._source, ModelName) else None
        skeleton = PipelineSkeleton(image, frozenset(), settings.description, settings.shared_file, name)
        loaded: P = load_pipeline_in_actor(skeleton, {}, settings.device if device is None else device)
        return loaded

    def current(self) -> P:
        """The pipeline that this wrapper keeps: loaded at the first call, and again when its name got another model.

        Of a model that has a name, `replace=True` in any program makes the next call here load the new weights, within
        milliseconds of the replacement; all other calls return what is loaded, in microseconds, and ask nobody. What a
        call returned stays whole and valid: hold it in a variable for as long as one answer takes, so that the answer
        is of the old or of the new weights, never of both. When the name is freed, calls go on with what is loaded.

        The callers in this process share the pipeline, unlike what `load` gives: what one of them writes to it, the
        others see, until it is loaded again. Several threads may call; while one loads the new model, the others get
        the old one. Each copy of the wrapper keeps a pipeline of its own, for as long as the copy lives.

        Raises:
            ValueError, RuntimeError, ModelLostError: as `load`.
        """
        kept: Current[P] = vars(self).setdefault("_kept", Current())  # one, whichever thread comes first
        epoch = current.epoch() if isinstance(self._source, ModelName) else 0
        return kept.get(epoch, self._keyed, self._loaded_from)

    def _keyed(self) -> tuple[Hashable, _Source]:
        """Where to load from now, and what tells it apart from where one loads at other times."""
        source = self._present()
        return store.ModelInImage(source.image, 0).key, source

    def free(self) -> None:
        """Give the model up, and its name, if it has one; the object store lets go of it when nobody uses it any more.

        The wrapper cannot be used afterwards: that raises a `RuntimeError`. Other processes go on with what they have
        loaded, and may load from wrappers without a name that they were given. A wrapper is a context manager as well:
        `with ActorWrapper(pipeline) as wrapper:` frees it at the end.
        """
        vars(self).pop("_kept", None)
        source, self._source = self._source, None
        if isinstance(source, ModelName):
            _free_name(source)

    def __enter__(self: A) -> A:
        return self

    def __exit__(self, *error: object) -> None:
        self.free()


class JITActorWrapper(ActorWrapper[P]):
    """`ActorWrapper` for pipelines with TorchScript modules.

    Args:
        pipeline: any picklable object holding `torch.jit.ScriptModule`s, wherever they are in it; or one.
        model_attr_names: as for `ActorWrapper`.
        device: as for `ActorWrapper`.
        name: as for `ActorWrapper`.
        lifetime: as for `ActorWrapper`.
        replace: as for `ActorWrapper`.

    Raises:
        AttributeError, ValueError: as `ActorWrapper`.
        TypeError: the pipeline holds no TorchScript module; or as `ActorWrapper`.
    """

    def __init__(
        self,
        pipeline: P,
        model_attr_names: Sequence[str] | None = None,
        device: Device | None = None,
        *,
        name: str | None = None,
        lifetime: Lifetime | None = None,
        replace: bool = False,
    ) -> None:
        check_holds_script(pipeline)
        super().__init__(pipeline, model_attr_names, device, name=name, lifetime=lifetime, replace=replace)

    @classmethod
    def _check_saved(cls, saved: Saved) -> None:
        if not saved.image.content.archive_count:
            raise TypeError(
                f"Expected torch.jit.ScriptModule somewhere in the pipeline of {saved.path!r}, which holds none. "
                "For other models there are TaskWrapper and ActorWrapper."
            )

    @property
    def constructor_kwargs(self) -> dict[str, Any]:
        """Arguments for `ray_zerocopy.jit.actor.load_pipeline_in_actor`."""
        return {name: value for name, value in super().constructor_kwargs.items() if name != "use_fast_load"}


def get_wrapper(name: str, namespace: str | None = None) -> Any:
    """The wrapper of a model that has a name, of the class that it was wrapped with.

    Args:
        name: as given to the wrapper, by any program of the cluster.
        namespace: the one of Ray's that the program was in; None: that of this process, as for `ray.get_actor`.

    Raises:
        ValueError: there is no model of that name; the message lists those that there are.
        ModelLostError: the same, after the actor that keeps models was lost with its node.
    """
    full = ModelName.here(name, namespace)
    wrapper_class, settings = named.head_of(full)
    if issubclass(wrapper_class, TaskWrapper):
        return _named_task_wrapper(full)
    wrapper = object.__new__(wrapper_class)
    vars(wrapper).update(_source=full, _held=settings.held)
    return wrapper


def __getattr__(name: str) -> Any:
    if name not in ("ActorModelInfo", "JITModelWrapper", "ModelInfo", "TaskModelInfo"):  # 0.2.0 has them here
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ray_zerocopy.older.published import wrappers

    return getattr(wrappers, name)
