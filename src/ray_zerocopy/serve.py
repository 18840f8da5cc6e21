"""Models by their ids in Ray Serve: `multiplexed`, as Ray's own, for models that load in milliseconds.

It needs Ray Serve (`pip install "ray[serve]"`), which nothing else in the package does.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, overload

from ray import serve

__all__ = ["multiplexed"]

_Load = Callable[..., Any]
_Loading = Callable[..., Awaitable[Any]]


@overload
def multiplexed(func: _Load, max_num_models_per_replica: int = 3) -> _Loading: ...


@overload
def multiplexed(func: None = None, max_num_models_per_replica: int = 3) -> Callable[[_Load], _Loading]: ...


def multiplexed(func: _Load | None = None, max_num_models_per_replica: int = 3) -> Any:
    """Make a function or a method that loads a model by its id one that keeps the models used last.

    It is used as `ray.serve.multiplexed` is, which it builds upon, so that `serve.get_multiplexed_model_id()`, the
    routing of requests to replicas that have their model, and Serve's metrics work as with that:

        @serve.deployment
        class Models:
            @ray_zerocopy.serve.multiplexed(max_num_models_per_replica=100)
            def model(self, model_id: str):
                return ray_zerocopy.get_wrapper(model_id).load()

            async def __call__(self, request):
                model = await self.model(serve.get_multiplexed_model_id())

    Three things differ. Models load at the same time, while Ray's decorator loads one after the other. What loads them
    may be a plain function, which runs in a thread; the decorated one is awaited in either case. And a model that is
    evicted is neither told nor touched: Python frees it when the last request that uses it has ended.

    Args:
        func: takes the id of a model, a string, and returns the model; as a method it takes `self` before that. Plain
            functions run in threads of the event loop's, several at once; coroutine functions in the event loop.
        max_num_models_per_replica: how many models a replica keeps; when there are more, the one that was used least
            recently goes. -1: all.

    Returns:
        A coroutine function with the parameters of `func`. Callers that ask for the same model get the same object,
        and share one load. What `func` raises, it raises to all of them; nothing is kept then, nor evicted. It raises a
        `ValueError` for an empty id, which is that of a request that names no model.

    Raises:
        TypeError: `func` takes other parameters.
        ValueError: `max_num_models_per_replica` is neither positive nor -1.
    """
    mark = vars(serve.multiplexed(max_num_models_per_replica=max_num_models_per_replica)(_unused))

    def decorate(func: _Load) -> _Loading:
        parameters = len(inspect.signature(func).parameters) if callable(func) else 0
        if parameters not in (1, 2):
            raise TypeError(f"Expected a function of a model's id, or a method of self and the id, got {func!r}.")
        attribute = f"_multiplexed_{func.__qualname__}"  # a class and its base may each have a method of this name

        async def model(*args: Any) -> Any:
            if len(args) != parameters:
                raise TypeError(f"{func.__name__}() takes {parameters} positional arguments, {len(args)} were given.")
            *instance, model_id = args
            owner = instance[0] if instance else model
            models = vars(owner).get(attribute)
            if models is None:
                models = _Models(functools.partial(func, *instance), max_num_models_per_replica)
                setattr(owner, attribute, models)
            return await models.get(model_id)

        vars(model).update(mark)
        return functools.wraps(func)(model)

    return decorate if func is None else decorate(func)


async def _unused(model_id: str) -> None:
    """Is decorated for the mark that Ray leaves on it: by that it knows which deployments multiplex models."""


class _Slot:
    """What is in Ray's cache for a model. It can be referred to weakly, whatever the model is."""

    def __init__(self, model: Any) -> None:
        self.model = model


class _Models:
    """The models of one replica. To be used in one event loop."""

    def __init__(self, load: _Load, max_num_models_per_replica: int) -> None:
        self._load = load
        self._loading: dict[str, asyncio.Task[_Slot]] = {}
        slots = self._slots = weakref.WeakValueDictionary[str, _Slot]()

        async def kept(model_id: str) -> _Slot:
            return slots[model_id]

        # Under Ray's lock, which is held while a model loads, nothing is left to be done.
        self._keep: _Loading = serve.multiplexed(max_num_models_per_replica=max_num_models_per_replica)(kept)

    async def get(self, model_id: str) -> Any:
        if not isinstance(model_id, str):
            raise TypeError(f"Expected a string for the id of a model, got {model_id!r}.")
        if not model_id:
            raise ValueError(
                "The request names no model. Over HTTP it does so in the header serve_multiplexed_model_id, "
                'from Python by handle.options(multiplexed_model_id="...").'
            )
        slot = self._slots.get(model_id)
        if slot is None:
            if model_id not in self._loading:
                self._loading[model_id] = asyncio.ensure_future(self._loaded(model_id))
            slot = await asyncio.shield(self._loading[model_id])  # a caller that gives up leaves it to the others
        await self._keep(model_id)
        return slot.model

    async def _loaded(self, model_id: str) -> _Slot:
        try:
            if inspect.iscoroutinefunction(self._load):
                model = await self._load(model_id)
            else:
                model = await asyncio.to_thread(self._load, model_id)
            slot = self._slots[model_id] = _Slot(model)
            return slot
        finally:
            del self._loading[model_id]
