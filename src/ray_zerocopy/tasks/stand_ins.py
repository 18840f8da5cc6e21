"""Stand-ins: what a pipeline of `TaskWrapper` holds in its models' places."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from torch import nn
from torch.export import ExportedProgram

from ray_zerocopy import _engine
from ray_zerocopy.image import Image, freeze, freeze_each
from ray_zerocopy.image.held import Held
from ray_zerocopy.image.models import (
    PublishedModels,
    check_has_methods,
    check_holds_model,
    check_is_object,
    checked_names,
    paths_of,
    take_apart,
)
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.tasks.containers import admit_stand_ins
from ray_zerocopy.tasks.options import TaskOptions
from ray_zerocopy.tasks.remote import RemoteModel
from ray_zerocopy.tasks.special_methods import OWN, SpecialMethods, apply, public_class, supporting
from ray_zerocopy.transport import store

P = TypeVar("P")

_READING = frozenset(
    {
        "forward",
        "get_submodule",
        "get_parameter",
        "get_buffer",
        "get_extra_state",
        "state_dict",
        "extra_repr",
        "parameters",
        "named_parameters",
        "buffers",
        "named_buffers",
        "children",
        "named_children",
        "modules",
        "named_modules",
        "_slow_forward",
        "_call_impl",
        "_wrapped_call_impl",
        "_get_name",
        "_named_members",
        "_save_to_state_dict",
        "_get_backward_hooks",
        "_get_backward_pre_hooks",
        "_maybe_warn_non_full_backward_hook",
        "_replicate_for_data_parallel",
        "keys",
        "items",
        "values",
        "copy",
        "get",
        "fromkeys",
        "_get_item_by_idx",
        "_get_abs_string_index",
        "_key_to_attr",
    }
)
"""The methods of torch's own module classes that leave a module as it is. All others change it."""

_MODES = frozenset({"eval", "train"})

NAMES_OF_WRAPPERS = frozenset({"free", "map", "map_unordered", "nbytes", "options", "remote"})
"""What a `TaskWrapper` calls its own unless the pipeline has it."""

_ADAPTER_METHODS = frozenset(
    {
        "add_adapter",
        "add_weighted_adapter",
        "delete_adapter",
        "delete_adapters",
        "disable_adapter",
        "disable_adapters",
        "disable_lora",
        "enable_adapters",
        "enable_lora",
        "fuse_lora",
        "load_adapter",
        "merge_adapter",
        "set_adapter",
        "set_adapters",
        "unfuse_lora",
        "unmerge_adapter",
    }
)
"""The methods of PEFT, transformers and diffusers that change which adapters a model has or uses."""

_WRITING_OPERATORS = frozenset(
    {
        "__setitem__",
        "__delitem__",
        "__iadd__",
        "__isub__",
        "__imul__",
        "__imatmul__",
        "__itruediv__",
        "__ifloordiv__",
        "__imod__",
        "__ipow__",
        "__ilshift__",
        "__irshift__",
        "__iand__",
        "__ixor__",
        "__ior__",
    }
)
"""The special methods that change an object: assigning and deleting items, and `+=` and its like."""


class Original(NamedTuple):
    """What a stand-in knows of the model that it stands for. Small to pickle."""

    number: int
    """Its skeleton in the image of the pipeline's models."""
    together: int | None
    """The skeleton of all these models at once, a tuple; None: each is loaded by itself, as no two share weights."""
    is_program: bool
    """Whether it is a `torch.export.ExportedProgram`."""
    description: str
    """Where the model was in its pipeline, and its class."""
    methods: frozenset[str]
    """What runs in tasks."""
    module_classes: tuple[type, ...]
    """torch's own module classes among the model's: what they define changes the model in known ways."""
    redefined: frozenset[str]
    """Names of theirs that are something else in this model."""
    adapter_methods: frozenset[str]
    """Those of `_ADAPTER_METHODS` that the model has."""
    special_methods: SpecialMethods
    own_names: frozenset[str]
    """Those of `NAMES_OF_WRAPPERS` that the model has as well."""
    segments: tuple[tuple[int, int], ...] = ()
    """Those of the image that the model's weights are in: their numbers, and their bytes."""

    @classmethod
    def of(cls, model: Any, number: int, together: int | None, path: str, method_names: Sequence[str]) -> Original:
        """What is to be known of a model, the skeleton `number` of its image; methods that it lacks are passed over."""
        kinds = tuple(kind for kind in type(model).__mro__ if kind in _MODULE_CLASSES)
        known = _mutators(kinds) | _MODES
        return cls(
            number,
            together,
            isinstance(model, ExportedProgram),
            f"{path}: {type(model).__name__}",
            frozenset({"__call__", *(name for name in method_names if callable(getattr(model, name, None)))}),
            kinds,
            frozenset(n for n in known if n in vars(model) or not callable(getattr(type(model), n, None))),
            frozenset(name for name in _ADAPTER_METHODS if callable(getattr(model, name, None))),
            SpecialMethods.of(type(model)),
            frozenset(n for n in NAMES_OF_WRAPPERS if hasattr(type(model), n) or hasattr(model, n)),
        )

    def within(self, image: Image) -> Original:
        """The same, with what the model has of the image's segments."""
        numbers = image.skeleton(self.number).segments
        return self._replace(segments=tuple((n, memoryview(image.segments[n]).nbytes) for n in numbers))

    def is_mutator(self, name: str) -> bool:
        """Whether the model's attribute is one of torch's methods, or of adapters', that change a module."""
        return name in self.adapter_methods or (name in _mutators(self.module_classes) and name not in self.redefined)

    def is_mode(self, name: str) -> bool:
        """Whether the model's attribute is one of torch's methods that set a module's mode."""
        return name in _MODES and bool(self.module_classes) and name not in self.redefined


_MODULE_CLASSES = frozenset(
    {nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict}
)


@functools.cache
def _mutators(module_classes: tuple[type, ...]) -> frozenset[str]:
    """The methods of these classes of torch that change a module."""
    names = {name for cls in module_classes for name, value in vars(cls).items() if callable(value)}
    return frozenset(name for name in names - _READING - _MODES if not name.startswith("__"))


class StandIn(PublishedModels):
    """Stands where a model stood: its remote methods run as Ray tasks, each on a model as fresh as just loaded.

    What else is asked of it, a copy of the model in this process answers, which is loaded when it is first needed and
    shares the node's weights. What would change the model raises an `AttributeError`: the tasks would not see it.

    Picklable; it works inside tasks and actors. Usable from several threads. It supports the special methods (`len`,
    `[]`, `with`) that the model supports.
    """

    __slots__ = ("__weakref__", "_ray_zerocopy_original", "_ray_zerocopy_remote")  # all other names are the model's

    _ray_zerocopy_original: Original
    _ray_zerocopy_remote: RemoteModel

    def __init__(self, original: Original, image: store.Published) -> None:
        object.__setattr__(self, "_ray_zerocopy_original", original)
        source = store.ModelInImage(image, original.number, original.description)
        object.__setattr__(self, "_ray_zerocopy_remote", RemoteModel(source))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, in a Ray task; references among the arguments are resolved first, as in any task."""
        return self._ray_zerocopy_remote.invoke("__call__", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in OWN or name in StandIn.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        original = self._ray_zerocopy_original
        if name in original.methods:
            return functools.partial(self._ray_zerocopy_remote.invoke, name)
        if original.is_mode(name):
            return functools.partial(_set_mode, self, name)
        if original.is_mutator(name):
            return functools.partial(_refuse_call, self, name)
        return getattr(self._ray_zerocopy_remote.local(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(self, f"Setting .{name}")

    def __delattr__(self, name: str) -> None:
        _refuse(self, f"Deleting .{name}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._ray_zerocopy_remote.local())})

    def __reduce__(self) -> tuple[Any, ...]:
        options = self._ray_zerocopy_remote.options
        return stand_in_for, (self._ray_zerocopy_original, source_of(self).image, public_class(self), options)

    def __copy__(self) -> StandIn:
        return with_options(self, self._ray_zerocopy_remote.options)

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return self.__copy__()

    def __repr__(self) -> str:
        return f"<{self._ray_zerocopy_original.description}, run by Ray tasks>"


class ProgramStandIn(StandIn):
    """Stands where a `torch.export.ExportedProgram` stood."""

    __slots__ = ()

    def module(self, check_guards: bool = True) -> ProgramStandIn:
        """What is called of a program: here that is the stand-in itself."""
        return self


def source_of(stand_in: StandIn) -> store.ModelInImage:
    """Where the model of a stand-in was published."""
    return stand_in._ray_zerocopy_remote.source


def original_of(stand_in: StandIn) -> Original:
    """What a stand-in knows of its model."""
    return stand_in._ray_zerocopy_original


class FrozenParts(NamedTuple):
    """A pipeline on its way to workers: its models, and the rest of it."""

    models: Image
    rest: Image
    """Its externals are an `Original` in each model's place, and Ray's references."""


def freeze_parts(pipeline: Any, method_names: Sequence[str], *, join: bool = False) -> FrozenParts:
    """Freeze a pipeline's models and the rest of it apart.

    Models that share weights are frozen all at once as well, so that they share them where they are loaded together.

    Args:
        pipeline: it is not changed.
        method_names: what is to run in tasks.
        join: as for `freeze_pipeline`.

    Raises:
        TypeError: something in the pipeline cannot be pickled (the message gives the path to it); it holds no model,
            or is a class or a path; or `method_names` is not a sequence of names.
        AttributeError: no model of the pipeline has one of `method_names`; the message names it.
    """
    check_is_object(pipeline)
    names = checked_names(method_names, "method names, such as ('encode',)")
    parts = take_apart(pipeline)
    check_holds_model(pipeline, parts.models)
    check_has_methods(parts.models, names)
    roots = dict(zip(paths_of(parts.models, pipeline), parts.models, strict=True))
    models = freeze_each(roots, external=is_ray_reference, join=join)
    together = None
    if _share_segments(models):
        together = len(roots)
        all_at_once = {"the models of the pipeline": tuple(parts.models)}
        models = freeze_each(roots | all_at_once, external=is_ray_reference, join=join)
    originals = [Original.of(model, n, together, path, names) for n, (path, model) in enumerate(roots.items())]
    return FrozenParts(models, parts.filled([original.within(models) for original in originals]))


def _share_segments(image: Image) -> bool:
    """Whether two skeletons have weights in common: a segment is all that the same skeletons need."""
    skeletons = map(image.skeleton, range(image.content.root_count))
    listed = [segment for skeleton in skeletons for segment in skeleton.segments]
    return len(listed) > len(set(listed))


def has_own(pipeline: Any, name: str) -> bool:
    """Whether a pipeline with stand-ins, or that is one, has one of `NAMES_OF_WRAPPERS` itself."""
    if isinstance(pipeline, StandIn):
        return name in pipeline._ray_zerocopy_original.own_names
    if isinstance(pipeline, nn.Module):  # whose parts are not in its __dict__
        return hasattr(pipeline, name)
    return name in getattr(pipeline, "__dict__", ()) or hasattr(type(pipeline), name)


class Assembled(NamedTuple):
    """A pipeline with a stand-in in each model's place."""

    pipeline: Any
    rest: store.Published | None = None
    """Where the bulk bytes beside its models were published, if anywhere."""
    segments: Sequence[int] = ()
    """The numbers of those segments there that `view` has."""
    view: _engine.View | None = None
    """What they lie in here."""


def put_together(models: store.Published, rest: Image, published: store.Published | None = None) -> Assembled:
    """The pipeline, with a stand-in in each model's place.

    Args:
        models: where the `FrozenParts.models` were published.
        rest: the `FrozenParts.rest`.
        published: where that was published, if it was.
    """
    externals = tuple(
        stand_in_for(part, models, ProgramStandIn if part.is_program else StandIn)
        if isinstance(part, Original)
        else part
        for part in rest.externals
    )
    rewritten = store.load(dataclasses.replace(rest, externals=externals))
    admit_stand_ins(rewritten.root, lambda cls: issubclass(cls, StandIn) or is_ray_reference(cls))
    return Assembled(rewritten.root, published, rest.skeleton(0).segments, rewritten.view)


def assembled(pipeline: Any, method_names: Sequence[str]) -> Assembled:
    """A copy of a pipeline with a stand-in in each model's place, the models published as one object.

    Raises:
        TypeError, AttributeError: as `freeze_parts`.
    """
    models, rest = freeze_parts(pipeline, method_names, join=True)
    image = store.publish(models)
    if not rest.segments:
        return put_together(image, rest)
    published = store.publish(rest)  # bulk bytes outside models are shared rather than copied, too
    return put_together(image, store.fetch(published)[0], published)


def with_stand_ins(pipeline: P, method_names: Sequence[str]) -> P:
    """As `assembled`, the pipeline alone."""
    rewritten: P = assembled(pipeline, method_names).pipeline
    return rewritten


def stand_in_for(
    original: Original, image: store.Published, kind: type[StandIn], options: TaskOptions | None = None
) -> StandIn:
    """A stand-in of this kind, with the special methods of the model.

    Args:
        original: the model.
        image: where it was published.
        kind: `StandIn`, or a subclass of it.
        options: what its tasks have; None: what model calls have where it is called.
    """
    stand_in = supporting(kind, original.special_methods, _answer_special)(original, image)
    stand_in._ray_zerocopy_remote.options = options
    return stand_in


def with_options(stand_in: StandIn, options: TaskOptions | None) -> StandIn:
    """A stand-in for the same model, whose tasks have these options."""
    return stand_in_for(original_of(stand_in), source_of(stand_in).image, public_class(stand_in), options)


def held_by(pipeline: Any) -> Held:
    """What a pipeline with stand-ins holds."""
    if isinstance(pipeline, StandIn):
        stand_ins, beside = [pipeline], 0
    else:
        rest = freeze(pipeline, external=lambda cls: issubclass(cls, StandIn) or is_ray_reference(cls))
        stand_ins, beside = [part for part in rest.externals if isinstance(part, StandIn)], rest.nbytes
    originals = [stand_in._ray_zerocopy_original for stand_in in stand_ins]
    segments = {
        (source_of(stand_in).key[0], number): nbytes
        for stand_in, original in zip(stand_ins, originals, strict=True)
        for number, nbytes in original.segments
    }
    models = [original.description.rsplit(": ", 1) for original in originals]
    name = models[0][1] if isinstance(pipeline, StandIn) else type(pipeline).__name__
    return Held(name, tuple((path, kind) for path, kind in models), beside + sum(segments.values()))


def _answer_special(stand_in: StandIn, name: str, /, *args: Any, **kwargs: Any) -> Any:
    if name in stand_in._ray_zerocopy_original.methods:
        return stand_in._ray_zerocopy_remote.invoke(name, *args, **kwargs)
    if name in _WRITING_OPERATORS:
        _refuse(stand_in, name)
    local = stand_in._ray_zerocopy_remote.local()
    result = apply(name, local, *args, **kwargs)
    return stand_in if result is local else result


def _set_mode(stand_in: StandIn, name: str, mode: bool = True) -> StandIn:
    """As `eval` and `train` of a module: the model is in eval mode, and stays in it."""
    if name == "train" and mode:
        _refuse(stand_in, ".train()")
    return stand_in


def _refuse_call(stand_in: StandIn, name: str, *args: Any, **kwargs: Any) -> NoReturn:
    _refuse(stand_in, f".{name}()")


def _refuse(stand_in: StandIn, change: str) -> NoReturn:
    raise AttributeError(
        f"{change} would have no effect: {stand_in!r} stands for a model that was published, and tasks would go on "
        "with it as it was published. Change the model in the pipeline that was wrapped and wrap it again, or use an "
        "ActorWrapper, whose load() gives a pipeline that may be changed."
    )
