"""What starts whole-pipeline tasks: a wrapper, its methods, and both with options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from functools import partialmethod
from types import FunctionType, MethodType
from typing import Any

import ray
import torch

from ray_zerocopy.image.models import PublishedModels
from ray_zerocopy.tasks.options import DEFAULTS, TaskOptions, call_with
from ray_zerocopy.tasks.pipelines import RemotePipeline, check_options
from ray_zerocopy.tasks.results import Results
from ray_zerocopy.tasks.special_methods import OWN
from ray_zerocopy.tasks.stand_ins import StandIn, has_own, original_of, with_options


class GivesWay:
    """A method that gives way to an attribute of the pipeline; on the class itself it is always the wrapper's."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: Any, cls: type) -> Callable[..., Any]:
        if owner is None:
            return self._method
        name = self._method.__name__
        wrapper = vars(owner).get("_ray_zerocopy_wrapper", owner)
        pipeline = vars(wrapper).get("_ray_zerocopy_pipeline")  # which is missing after it was freed
        own: Callable[..., Any] = (
            attribute(owner, pipeline, name)
            if pipeline is not None and has_own(pipeline, name)
            else self._method.__get__(owner)
        )
        return own


class ValueGivesWay:
    """A property that gives way to an attribute of the pipeline."""

    def __init__(self, value: Callable[[Any], Any]) -> None:
        self._value = value
        self.__doc__ = value.__doc__

    def __get__(self, wrapper: Any, cls: type) -> Any:
        if wrapper is None:
            return self
        name = self._value.__name__
        pipeline = vars(wrapper).get("_ray_zerocopy_pipeline")
        has_it = pipeline is not None and has_own(pipeline, name)
        return attribute(wrapper, pipeline, name) if has_it else self._value(wrapper)


def attribute(owner: Any, pipeline: Any, name: str) -> Any:
    """An attribute of a pipeline; if it is a method, it has `remote` and `options` as well.

    Args:
        owner: the wrapper of the pipeline, or that with options.
        pipeline: the pipeline.
        name: of the attribute.
    """
    value = getattr(pipeline, name)
    return PipelineMethod(owner, name, value) if _is_method(pipeline, name, value) else value


def _is_method(pipeline: Any, name: str, value: Any) -> bool:
    if isinstance(pipeline, StandIn):
        if name in original_of(pipeline).methods:
            return True
        return isinstance(value, torch._C.ScriptMethod) or (isinstance(value, MethodType) and value.__name__ == name)
    if name in getattr(pipeline, "__dict__", ()) or isinstance(value, type) or not callable(value):
        return False
    defined = inspect.getattr_static(type(pipeline), name, None)
    return isinstance(defined, (FunctionType, staticmethod, classmethod, partialmethod)) or (
        isinstance(value, MethodType) and not isinstance(defined, property)
    )


class PipelineMethod:
    """A method of a wrapper's pipeline: it is called as ever, here; `remote` runs it whole in a task.

    What else it is asked, the bound method answers.
    """

    def __init__(self, owner: Any, name: str, bound: Callable[..., Any]) -> None:
        functools.update_wrapper(self, bound)
        self._ray_zerocopy_owner = owner
        self._ray_zerocopy_method = name
        self._ray_zerocopy_bound = bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method, in this process; models run in tasks."""
        return _call_here(self._ray_zerocopy_owner, self._ray_zerocopy_bound, args, kwargs)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As `TaskWrapper.remote`, of this method."""
        return start(self._ray_zerocopy_owner, self._ray_zerocopy_method, args, kwargs)

    def options(self, **options: Any) -> PipelineMethod:
        """As `TaskWrapper.options`, of this method."""
        owner = WithOptions.of(self._ray_zerocopy_owner, options)
        return PipelineMethod(owner, self._ray_zerocopy_method, self._ray_zerocopy_bound)

    def map(self, inputs: Iterable[Any], *, max_in_flight: int | None = None, progress: bool = False) -> Results:
        """As `TaskWrapper.map`, of this method."""
        name = self._ray_zerocopy_method
        return results(self._ray_zerocopy_owner, name, inputs, max_in_flight, progress, is_ordered=True)

    def map_unordered(
        self, inputs: Iterable[Any], *, max_in_flight: int | None = None, progress: bool = False
    ) -> Results:
        """As `TaskWrapper.map_unordered`, of this method."""
        name = self._ray_zerocopy_method
        return results(self._ray_zerocopy_owner, name, inputs, max_in_flight, progress, is_ordered=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_ray_zerocopy_"):
            raise AttributeError(name)
        return getattr(self._ray_zerocopy_bound, name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PipelineMethod):
            other = other._ray_zerocopy_bound
        return bool(self._ray_zerocopy_bound == other)

    def __hash__(self) -> int:
        return hash(self._ray_zerocopy_bound)

    def __repr__(self) -> str:
        return repr(self._ray_zerocopy_bound)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._ray_zerocopy_owner, self._ray_zerocopy_method)


class WithOptions(PublishedModels):
    """A `TaskWrapper` whose tasks have options of Ray's: what `TaskWrapper.options` gives. Small to pickle."""

    _ray_zerocopy_wrapper: Any
    _ray_zerocopy_options: TaskOptions

    def __init__(self, wrapper: Any, options: TaskOptions) -> None:
        object.__setattr__(self, "_ray_zerocopy_wrapper", wrapper)
        object.__setattr__(self, "_ray_zerocopy_options", options)

    @classmethod
    def of(cls, owner: Any, options: dict[str, Any]) -> WithOptions:
        """A wrapper, or that with options, with options that go before those.

        Raises:
            ValueError, TypeError: Ray does not know one of the options, or it has another value than Ray expects.
        """
        merged = _options_of(owner).merged(options)
        check_options(merged)
        return cls(_wrapper_of(owner), merged)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline, as the wrapper does; the tasks of its models have the options."""
        return _call_here(self, self._ray_zerocopy_wrapper, args, kwargs)

    @GivesWay
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As `TaskWrapper.remote`."""
        return start(self, "__call__", args, kwargs)

    @GivesWay
    def options(self, **options: Any) -> WithOptions:
        """As `TaskWrapper.options`: these go before the options that there are."""
        return WithOptions.of(self, options)

    @GivesWay
    def map(self, inputs: Iterable[Any], *, max_in_flight: int | None = None, progress: bool = False) -> Results:
        """As `TaskWrapper.map`."""
        return results(self, "__call__", inputs, max_in_flight, progress, is_ordered=True)

    @GivesWay
    def map_unordered(
        self, inputs: Iterable[Any], *, max_in_flight: int | None = None, progress: bool = False
    ) -> Results:
        """As `TaskWrapper.map_unordered`."""
        return results(self, "__call__", inputs, max_in_flight, progress, is_ordered=False)

    def __getattr__(self, name: str) -> Any:
        if name in OWN or name.startswith("_ray_zerocopy_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        wrapper = self._ray_zerocopy_wrapper
        value = getattr(wrapper, name)
        if isinstance(value, StandIn):
            return with_options(value, self._ray_zerocopy_options)
        return PipelineMethod(self, name, value._ray_zerocopy_bound) if isinstance(value, PipelineMethod) else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ray_zerocopy_wrapper, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._ray_zerocopy_wrapper, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._ray_zerocopy_wrapper)})

    def __repr__(self) -> str:
        return f"{self._ray_zerocopy_wrapper!r}.options({self._ray_zerocopy_options!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._ray_zerocopy_wrapper, self._ray_zerocopy_options)

    def __copy__(self) -> WithOptions:
        return type(self)(self._ray_zerocopy_wrapper, self._ray_zerocopy_options)


def _wrapper_of(owner: Any) -> Any:
    return owner._ray_zerocopy_wrapper if isinstance(owner, WithOptions) else owner


def _options_of(owner: Any) -> TaskOptions:
    return owner._ray_zerocopy_options if isinstance(owner, WithOptions) else DEFAULTS


def _remote_pipeline(owner: Any) -> RemotePipeline:
    pipeline: RemotePipeline = _wrapper_of(owner)._ray_zerocopy_remote
    return pipeline


def _call_here(owner: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    options = _options_of(owner)
    if options is DEFAULTS:
        return function(*args, **kwargs)
    options.check_gives_one_result("a call")
    return call_with(options, function, args, kwargs)


def start(owner: Any, method: str, args: Any, kwargs: Any) -> Any:
    """Start a task that runs a method of the whole pipeline.

    Args:
        owner: the wrapper, or that with options.
        method: its name.
        args: of the method.
        kwargs: likewise.
    """
    return _remote_pipeline(owner).prepare(_options_of(owner), method)(args, kwargs)


def results(
    owner: Any, method: str, inputs: Iterable[Any], max_in_flight: int | None, progress: bool, *, is_ordered: bool
) -> Results:
    """What a method of the whole pipeline gives for each input, each in a task.

    Args:
        owner: the wrapper, or that with options.
        method: its name.
        inputs: as for `Results`.
        max_in_flight: likewise.
        progress: whether to show how many are done.
        is_ordered: as for `Results`.
    """
    options = _options_of(owner)
    options.check_gives_one_result("a map")
    pipeline = _remote_pipeline(owner)
    if pipeline.is_generator(method):
        raise TypeError(f"{method} is a generator, and a map takes one result for each input: use {method}.remote().")
    call = pipeline.prepare(options, method)

    def start_one(value: Any) -> ray.ObjectRef[Any]:
        task: ray.ObjectRef[Any] = call((value,), {})
        return task

    title = "pipeline" if method == "__call__" else method
    return Results(
        start_one,
        inputs,
        is_ordered=is_ordered,
        max_in_flight=max_in_flight,
        title=title if progress else None,
    )
