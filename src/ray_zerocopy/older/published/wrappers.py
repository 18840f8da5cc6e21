"""`ModelWrapper` and `JITModelWrapper` of 0.2.0: one class for tasks and for actors, told apart by a mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast

import torch
from torch import nn

from ray_zerocopy.older.deprecation import warn_deprecated
from ray_zerocopy.older.published import pipelines
from ray_zerocopy.older.published.jit import TASK_METHODS
from ray_zerocopy.older.published.pipelines import ActorModelInfo, ModelInfo, TaskModelInfo

__all__ = ["ActorModelInfo", "JITModelWrapper", "ModelInfo", "ModelWrapper", "TaskModelInfo"]

P = TypeVar("P")

Mode = Literal["task", "actor"]


class _StandaloneModel:
    """The pipeline of a model that was given alone."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model


class _PublishedWrapper(Generic[P]):
    """What the two classes have in common. Small to pickle: the skeleton, and references to the models.

    Args:
        skeleton: from `serialize`.
        model_info: likewise.
        is_standalone_module: whether the skeleton is that of a model which was given alone.
        mode: "task": `load` gives a pipeline whose models run as tasks; "actor": one with models of its own.
    """

    _kind: ClassVar[type[nn.Module]]
    """The class of models that are published."""
    _methods: ClassVar[tuple[str, ...]]
    """Those that run as tasks without being named."""
    _wrappers: ClassVar[dict[str, str]]
    """The class to use instead, by the mode."""

    def __init__(
        self, skeleton: P, model_info: ModelInfo, is_standalone_module: bool = False, mode: Mode = "actor"
    ) -> None:
        _check_mode(mode)
        self._skeleton = skeleton
        self._model_info = model_info
        self._is_standalone_module = is_standalone_module
        self._mode = mode

    @classmethod
    def from_model(
        cls,
        model_or_pipeline: P,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
    ) -> Self:
        """Deprecated: use `ActorWrapper`, or `TaskWrapper` for the mode "task". Publish a model or a pipeline.

        Args:
            model_or_pipeline: a model, or an object with attributes that are models; it is not changed.
            mode: "actor": `load` gives a pipeline with models of its own; "task": one whose models run as tasks.
            model_attr_names: the attributes to publish; None: all that are models.
            method_names: the models' methods that run as tasks, besides `__call__`; None: the usual ones.

        Raises:
            ValueError: `mode` is something else.
            AttributeError: the pipeline lacks one of `model_attr_names`.
            TypeError: something in a model cannot be pickled; the message gives the path to it.
        """
        _check_mode(mode)
        warn_deprecated(f"{cls.__name__}.from_model", f"{cls._wrappers[mode]}(pipeline)")
        pipeline, is_alone = cls._as_pipeline(model_or_pipeline)
        methods = (method_names or cls._methods) if mode == "task" else None
        skeleton, info = pipelines.publish(pipeline, cls._kind, model_attr_names, methods)
        return cls(skeleton, info if mode == "task" else pipelines.model_refs_of(info), is_alone, mode)

    @classmethod
    def for_tasks(cls, model_or_pipeline: P, method_names: Sequence[str] | None = None) -> P:
        """Deprecated: use `TaskWrapper`. The pipeline with stand-ins for its models, whose calls run as tasks.

        Args:
            model_or_pipeline: as for `from_model`.
            method_names: likewise.

        Raises:
            TypeError: something in a model cannot be pickled; the message gives the path to it.
        """
        warn_deprecated(f"{cls.__name__}.for_tasks", f"{cls._wrappers['task']}(pipeline)")
        pipeline, is_alone = cls._as_pipeline(model_or_pipeline)
        skeleton, info = pipelines.publish(pipeline, cls._kind, method_names=method_names or cls._methods)
        return cls(skeleton, info, is_alone, "task")._load()

    @classmethod
    def deserialize(
        cls, skeleton: P, model_info: ModelInfo, is_standalone_module: bool = False, mode: Mode = "actor"
    ) -> Self:
        """Deprecated: pass the wrapper itself, which is small to pickle. The inverse of `serialize`."""
        _check_mode(mode)
        warn_deprecated(f"{cls.__name__}.deserialize", f"{cls._wrappers[mode]}, which is small to pickle as it is")
        return cls(skeleton, model_info, is_standalone_module, mode)

    def serialize(self) -> dict[str, Any]:
        """The arguments of `deserialize`."""
        return {
            "skeleton": self._skeleton,
            "model_info": self._model_info,
            "is_standalone_module": self._is_standalone_module,
            "mode": self._mode,
        }

    @property
    def model_refs(self) -> ActorModelInfo:
        """A reference to each model, by the attribute that it was; "model" for a model that was given alone."""
        if self._mode == "task":
            return pipelines.model_refs_of(cast("TaskModelInfo", self._model_info))
        return cast("ActorModelInfo", self._model_info)

    @classmethod
    def _as_pipeline(cls, given: Any) -> tuple[Any, bool]:
        """What was given as a pipeline, and whether it is a model alone."""
        is_alone = isinstance(given, cls._kind)
        return (_StandaloneModel(given) if is_alone else given), is_alone

    def _load(self) -> P:
        skeleton: Any = self._skeleton
        if self._mode == "task":
            loaded = pipelines.with_stand_ins(skeleton, cast("TaskModelInfo", self._model_info))
        else:
            loaded = pipelines.load(skeleton, self.model_refs, grad=self._kind is torch.jit.ScriptModule)
        result: P = loaded.model if self._is_standalone_module else loaded
        return result


def _check_mode(mode: str) -> None:
    if mode not in ("task", "actor"):
        raise ValueError(f"Invalid mode: {mode!r}. Expected 'task' or 'actor'.")


class ModelWrapper(_PublishedWrapper[P]):
    """Deprecated: use `ActorWrapper` and `TaskWrapper`. A pipeline with `torch.nn.Module`s, for tasks or for actors."""

    _kind = nn.Module
    _methods = ("__call__",)
    _wrappers: ClassVar = {"task": "TaskWrapper", "actor": "ActorWrapper"}

    def load(self, _use_fast_load: bool = False) -> P:
        """The pipeline: in the mode "actor" the caller's own, models in eval mode and parameters frozen.

        Args:
            _use_fast_load: accepted for compatibility; loading is always fast.

        Raises:
            ModelLostError: the process that wrapped the pipeline has ended, or its node is gone.
        """
        return self._load()


class JITModelWrapper(_PublishedWrapper[P]):
    """Deprecated: use `JITActorWrapper` and `JITTaskWrapper`. A pipeline with TorchScript modules, for either."""

    _kind = torch.jit.ScriptModule
    _methods = TASK_METHODS
    _wrappers: ClassVar = {"task": "JITTaskWrapper", "actor": "JITActorWrapper"}

    def load(self) -> P:
        """The pipeline: in the mode "actor" the caller's own, models in eval mode. Errors: as `ModelWrapper.load`."""
        return self._load()
