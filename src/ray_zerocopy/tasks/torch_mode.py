"""The caller's torch state, which a task takes over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

DEFAULT_DTYPE = threading.RLock()
"""Held where the process's default dtype is that of a call, and by whoever loads a model in another thread."""


class TorchMode(NamedTuple):
    """What of the caller's torch state decides a model's results, and so goes with the call."""

    grad: bool
    inference: bool
    autocast: torch.dtype | None
    default: torch.dtype | None
    """The default dtype, a setting of the whole process. None: `torch.float32`, which is quicker to send."""

    @classmethod
    def current(cls) -> TorchMode:
        """That of this thread, now."""
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        default = torch.get_default_dtype()
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            autocast,
            None if default is torch.float32 else default,
        )

    def call(self, method: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a method in this mode. What it changes of the mode ends with the call."""
        before = torch.get_default_dtype()
        # The least to do, in the path of each call.
        if (self.default or torch.float32) is not before or self.autocast is not None:
            with self.entered():
                return method(*args, **kwargs)
        try:
            if not (self.inference or torch.is_inference_mode_enabled()):
                with torch.set_grad_enabled(self.grad):
                    return method(*args, **kwargs)
            with self._entered():
                return method(*args, **kwargs)
        finally:
            if torch.get_default_dtype() is not before:
                torch.set_default_dtype(before)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This mode, for the body. What the body changes of the mode ends with it."""
        with DEFAULT_DTYPE:
            before = torch.get_default_dtype()
            torch.set_default_dtype(self.default or torch.float32)
            try:
                with self._entered():
                    yield
            finally:
                torch.set_default_dtype(before)

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad):
            if self.autocast is None:
                yield
            else:
                with torch.autocast("cpu", dtype=self.autocast):
                    yield
