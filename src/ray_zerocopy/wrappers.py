"""The public classes: who runs the models, Ray tasks or the actor that loaded them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeVar

from ray_zerocopy.actor import load_pipeline_in_actor, publish_pipeline
from ray_zerocopy.devices import Device, checked
from ray_zerocopy.models import check_holds_script
from ray_zerocopy.special_methods import OWN, SpecialMethods, apply, public_class, supporting
from ray_zerocopy.stand_ins import with_stand_ins

P = TypeVar("P")


class TaskWrapper(Generic[P]):
    """A copy of a pipeline whose own code runs in the caller, and whose models run as Ray tasks, on any worker.

    The models' weights are in the object store once for each node, and every call is as if it had a fresh model: what a
    model changes in itself, no other call sees. Calling the wrapper calls the pipeline; attributes, methods and special
    methods (`len`, `[]`, iteration, `with`) are the pipeline's. Picklable: it works inside other tasks and actors. The
    pipeline it is given is not changed; Ray is started if it is not running.

    A task needs one CPU of the cluster, or none where an actor calls the model. While no node has one free, a warning
    of the logger `ray_zerocopy` says so, now and then.

    What would change a model (`load_state_dict`, `half`, `to`, `train`, setting an attribute) raises an
    `AttributeError`, since tasks go on with the model as it was published: change the pipeline and wrap it again.

    Args:
        pipeline: any picklable object holding models, wherever they are in it; or a model.
        method_names: the models' methods that run as tasks, besides `__call__`; a model that lacks one is passed over.
            Other methods and attributes of a model are answered in the caller, by a copy that shares the weights: what
            is changed in that copy, tasks do not see.

    Raises:
        TypeError: something in the pipeline cannot be pickled (the message gives the path to it); it holds no model, or
            is a class or a path; or `method_names` is not a sequence of names.
        AttributeError: no model of the pipeline has one of `method_names`; the message names it.
    """

    _ray_zerocopy_pipeline: P  # all other names are the pipeline's

    def __init__(self, pipeline: P, method_names: Sequence[str] = ("__call__",)) -> None:
        _hold(self, with_stand_ins(pipeline, method_names))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline. An exception in a task arrives as its own type and as a `ray.exceptions.RayTaskError`.

        Raises:
            RuntimeError: no node of the cluster has a CPU for a task, and no autoscaler can add one.
        """
        pipeline: Any = self._ray_zerocopy_pipeline
        return pipeline(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in OWN or name == "_ray_zerocopy_pipeline":  # that is missing after an error in __init__
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        try:
            return getattr(self._ray_zerocopy_pipeline, name)
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
        return f"{type(self).__name__}({self._ray_zerocopy_pipeline!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_wrapper_of, (public_class(self), self._ray_zerocopy_pipeline)

    def __copy__(self) -> TaskWrapper[P]:
        return _task_wrapper_of(public_class(self), copy.copy(self._ray_zerocopy_pipeline))


def _hold(wrapper: TaskWrapper[P], pipeline: P) -> None:
    """Make it the wrapper of this pipeline, with the special methods of that."""
    supports = supporting(type(wrapper), SpecialMethods.of(type(pipeline)), _answer_special)
    object.__setattr__(wrapper, "__class__", supports)
    object.__setattr__(wrapper, "_ray_zerocopy_pipeline", pipeline)


def _answer_special(wrapper: TaskWrapper[Any], name: str, /, *args: Any, **kwargs: Any) -> Any:
    pipeline = wrapper._ray_zerocopy_pipeline
    result = apply(name, pipeline, *args, **kwargs)
    if result is NotImplemented and args and isinstance(args[0], TaskWrapper):  # operators between two pipelines
        result = apply(name, pipeline, args[0]._ray_zerocopy_pipeline)
    return wrapper if result is pipeline else result


def _task_wrapper_of(cls: type[TaskWrapper[P]], pipeline: P) -> TaskWrapper[P]:
    wrapper = cls.__new__(cls)
    _hold(wrapper, pipeline)
    return wrapper


class JITTaskWrapper(TaskWrapper[P]):
    """`TaskWrapper` for pipelines with TorchScript modules.

    Args:
        pipeline: any picklable object holding `torch.jit.ScriptModule`s, wherever they are in it; or one.
        method_names: as for `TaskWrapper`.

    Raises:
        TypeError: the pipeline holds no TorchScript module; or as `TaskWrapper`.
    """

    def __init__(self, pipeline: P, method_names: Sequence[str] = ("__call__", "forward")) -> None:
        check_holds_script(pipeline)
        super().__init__(pipeline, method_names)


_LOAD = (
    "The pipeline is what load() gives. In the class of an actor, or the class given to map_batches, write "
    "`self.pipeline = wrapper.load()` in __init__, and use self.pipeline."
)


class ActorWrapper(Generic[P]):
    """A pipeline for actors: pass the wrapper to an actor and call `load()` in the actor's `__init__`.

    Wrapping publishes the pipeline once; each `load()` gives a whole, independent pipeline whose weights are the node's
    one copy until they are written to: no other worker and no other load sees what is written. The pipeline given is
    not changed; Ray is started if it is not running. Small to pickle; several threads may load at once.

    Args:
        pipeline: any picklable object holding models, wherever they are in it; or a model.
        model_attr_names: attributes whose weights are to be shared; all else is private to each load. None: share all.
        device: where `load()` puts the tensors; None: on the CPU.
        use_fast_load: accepted and reported for compatibility; loading is always fast.

    Raises:
        AttributeError: the pipeline lacks one of `model_attr_names`; the message names it.
        TypeError: something in the pipeline cannot be pickled (the message gives the path to it); it holds neither a
            model nor a tensor nor a numpy array, or is a class or a path; or `model_attr_names` is not a sequence of
            names.
        ValueError: `device` is not a device; the message names it.
    """

    def __init__(
        self,
        pipeline: P,
        model_attr_names: Sequence[str] | None = None,
        device: Device | None = None,
        use_fast_load: bool = False,
    ) -> None:
        checked(device)
        self._device = device
        self._use_fast_load = use_fast_load
        self._pipeline_skeleton, self._model_refs = publish_pipeline(pipeline, model_attr_names)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise a TypeError that says to call `load()`: a function would load the pipeline for each call."""
        raise TypeError(f"An {type(self).__name__} cannot be called. {_LOAD}")

    def __getattr__(self, name: str) -> NoReturn:
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        is_special = name.startswith("__") and name.endswith("__")
        raise AttributeError(message if is_special else f"{message}. {_LOAD}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: its load(), called in an actor, gives the pipeline>"

    @property
    def constructor_kwargs(self) -> dict[str, Any]:
        """Arguments for `ray_zerocopy.actor.load_pipeline_in_actor`, to hand to an actor instead of the wrapper."""
        return {
            "pipeline_skeleton": self._pipeline_skeleton,
            "model_refs": dict(self._model_refs),
            "device": self._device,
            "use_fast_load": self._use_fast_load,
        }

    def load(self, device: Device | None = None) -> P:
        """A pipeline of the caller's own, models in eval mode.

        Args:
            device: where its tensors go; None: where the constructor was told.

        Raises:
            ValueError: `device` is not a device.
            RuntimeError: this process lacks the device; the message says which it has.
        """
        kwargs = self.constructor_kwargs
        loaded: P = load_pipeline_in_actor(**(kwargs if device is None else kwargs | {"device": device}))
        return loaded


class JITActorWrapper(ActorWrapper[P]):
    """`ActorWrapper` for pipelines with TorchScript modules.

    Args:
        pipeline: any picklable object holding `torch.jit.ScriptModule`s, wherever they are in it; or one.
        model_attr_names: as for `ActorWrapper`.
        device: as for `ActorWrapper`.

    Raises:
        AttributeError, ValueError: as `ActorWrapper`.
        TypeError: the pipeline holds no TorchScript module; or as `ActorWrapper`.
    """

    def __init__(
        self, pipeline: P, model_attr_names: Sequence[str] | None = None, device: Device | None = None
    ) -> None:
        check_holds_script(pipeline)
        super().__init__(pipeline, model_attr_names, device)

    @property
    def constructor_kwargs(self) -> dict[str, Any]:
        """Arguments for `ray_zerocopy.jit.actor.load_pipeline_in_actor`."""
        return {name: value for name, value in super().constructor_kwargs.items() if name != "use_fast_load"}
