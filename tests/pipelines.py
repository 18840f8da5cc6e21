"""Pipelines and models that several tests use, and the actor that loads them.

What a worker shall run is here rather than in a test's module, where the worker would import all that the test does.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray
import torch
from memory import bits, private_bytes, tensors_of
from torch import nn


class Classifier(nn.Module):
    """Two linear layers; `describe` is a method besides `forward`."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 4)
        self.labels = ["a", "b", "c", "d"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(x)))

    def describe(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return self.hidden(x) * scale


def encoder(layers: int = 12) -> nn.TransformerEncoder:
    """A plain transformer encoder, 28 MB a layer: twelve are BERT-base without its embeddings."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()


def vectors(seed: int = 0, length: int = 32) -> torch.Tensor:
    """What an encoder takes."""
    return torch.randn(1, length, 768, generator=torch.Generator().manual_seed(seed))


def encoded(model: Any, x: torch.Tensor) -> bytes:
    """The bits of what an encoder gives."""
    with torch.no_grad():
        return bits(model(x))


def warm_up_encoder() -> None:
    """A forward pass of one layer: all that more layers import and allocate once."""
    encoded(encoder(layers=1), vectors())


def warm_up_script() -> None:
    """What any use of a transformer and of TorchScript costs a process once."""
    warm_up_encoder()
    net = torch.jit.trace(nn.Linear(4, 4), torch.randn(1, 4))
    for _ in range(3):
        net(torch.randn(1, 4))


def add_one(model: Any) -> None:
    with torch.no_grad():
        for tensor in tensors_of(model):
            tensor.add_(1)


class TwoModels:
    """A pipeline with two models and a method of its own."""

    def __init__(self) -> None:
        self.encoder = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5))
        self.head = Classifier()
        self.threshold = 0.5
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(self.encoder(x))

    def confident(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self(x), dim=-1) > self.threshold


@ray.remote(num_cpus=0)
class Worker:
    """An actor that holds what it loads, and can be asked to do anything with it."""

    def __init__(self, warm_up: Any = None) -> None:
        torch.set_num_threads(1)
        self.loaded: Any = None
        if warm_up is not None:
            warm_up()
        self.before = private_bytes()

    def load(self, wrapper: Any, *args: Any, **kwargs: Any) -> float:
        """Load a wrapper's pipeline; returns seconds."""
        start = time.perf_counter()
        self.loaded = wrapper.load(*args, **kwargs)
        return time.perf_counter() - start

    def do(self, function: Any, *args: Any) -> Any:
        """`function(loaded, *args)`."""
        return function(self.loaded, *args)

    def drop(self) -> None:
        self.loaded = None

    def grown(self) -> int:
        """Private bytes more than before the load."""
        return private_bytes() - self.before

    def pid(self) -> int:
        return os.getpid()
