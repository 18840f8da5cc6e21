"""The public classes: who runs the models, Ray tasks or the actor that loaded them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from ray_zerocopy.actor import load_pipeline_in_actor, publish_pipeline
from ray_zerocopy.devices import Device, checked
from ray_zerocopy.models import check_holds_script
from ray_zerocopy.tasks import with_stand_ins

P = TypeVar("P")


class TaskWrapper(Generic[P]):
    """A copy of a pipeline whose own code runs in the caller, and whose models run as Ray tasks, on any worker.

    The models' weights are in the object store once for each node, and every call is as if it had a fresh model: what a
    model changes in itself, no other call sees. Calling the wrapper calls the pipeline; attributes and methods are the
    pipeline's. Picklable: it works inside other tasks and actors. The pipeline it is given is not changed; Ray is
    started if it is not running.

    Args:
        pipeline: any picklable object holding models, wherever they are in it; or a model.
        method_names: the models' methods that run as tasks, besides `__call__`; a model that lacks one is passed over.
            Other methods and attributes of a model are answered in the caller, by a copy that shares the weights.

    Raises:
        TypeError: something in the pipeline cannot be pickled (the message gives the path to it), or `method_names` is
            not a sequence of names.
    """

    def __init__(self, pipeline: P, method_names: Sequence[str] = ("__call__",)) -> None:
        object.__setattr__(self, "_pipeline", with_stand_ins(pipeline, method_names))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline. An exception in a task arrives as its own type and as a `ray.exceptions.RayTaskError`."""
        return self._pipeline(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_pipeline":  # not yet there: while unpickling, or after an error in __init__
            raise AttributeError(name)
        return getattr(self._pipeline, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._pipeline, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._pipeline, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._pipeline)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pipeline!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_wrapper_of, (type(self), self._pipeline)


def _task_wrapper_of(cls: type[TaskWrapper[P]], pipeline: P) -> TaskWrapper[P]:
    wrapper = cls.__new__(cls)
    object.__setattr__(wrapper, "_pipeline", pipeline)
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
        TypeError: something in the pipeline cannot be pickled; the message gives the path to it.
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
