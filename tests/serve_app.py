"""Serve applications of models that have names."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from memory import bits, file_behind_weights, give_back_free_memory, own_bytes
from pipelines import Classifier, encoded, warm_up_encoder
from ray import serve
from ray.serve import Application

import ray_zerocopy.serve
from ray_zerocopy import ActorWrapper, get_wrapper


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0})
class Server:
    def __init__(self, wrapper: ActorWrapper[Classifier]) -> None:
        self.model = wrapper.load()

    async def __call__(self, request: Any) -> dict[str, Any]:
        with torch.no_grad():
            return {"pid": os.getpid(), "result": self.model(torch.tensor(await request.json())).tolist()}


def classifier(seed: int = 0, width: int = 16) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(width).eval()


def build(arguments: dict[str, str]) -> Application:
    """What `serve deploy` calls, in a worker that it ends afterwards."""
    return Server.bind(ActorWrapper(classifier(), name=arguments["model"], lifetime="detached", replace=True))


def mapped_models(least: int = 16 << 20) -> int:
    """How many copy-on-write mappings of so many bytes this process has: one for each large model."""
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps]
    spans = [line[0].split("-") for line in lines if line[1] == "rw-p" and line[4] != "0"]
    return sum(int(end, 16) - int(begin, 16) >= least for begin, end in spans)


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class Rolling:
    """Answers in batches, with the exact bits of what the present model of a name gives."""

    def __init__(self, wrapper: ActorWrapper[Classifier]) -> None:
        self.wrapper = wrapper
        wrapper.current()

    async def __call__(self, request: Any) -> dict[str, Any]:
        return {"pid": os.getpid(), "result": await self.results(await request.json()), "mapped": mapped_models()}

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.002)
    async def results(self, inputs: list[list[list[float]]]) -> list[str]:
        model = self.wrapper.current()
        with torch.no_grad():
            return [bits(model(torch.tensor(x))).hex() for x in inputs]


class Seen(NamedTuple):
    """What a replica tells of itself."""

    process: int
    result: bytes
    grown: int
    """By how much its own memory has grown since before it had the model."""
    file: tuple[str, int, int]
    """What its weights are mapped from."""


@serve.deployment(
    max_ongoing_requests=4,
    ray_actor_options={"num_cpus": 0},
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 0.5,
        "look_back_period_s": 0.5,
    },
)
class Autoscaled:
    """Answers when there is a file, so that as many requests are under way until then as a test sends."""

    def __init__(self, released: str, name: str, namespace: str) -> None:
        torch.set_num_threads(1)
        warm_up_encoder()
        self.released = Path(released)
        self.before = own_bytes()
        self.model = get_wrapper(name, namespace).load()

    async def __call__(self, x: torch.Tensor) -> Seen:
        while not self.released.exists():
            await asyncio.sleep(0.02)
        result = encoded(self.model, x)
        give_back_free_memory(None)
        return Seen(os.getpid(), result, own_bytes() - self.before, file_behind_weights(self.model))


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class Multiplexed:
    """Models by their names. One does not load for as long as there is a file of its name in a folder."""

    def __init__(self, folder: str, namespace: str) -> None:
        self.folder = Path(folder)
        self.namespace = namespace
        self.loads: Counter[str] = Counter()

    @ray_zerocopy.serve.multiplexed(max_num_models_per_replica=2)
    def model(self, model_id: str) -> Classifier:
        self.loads[model_id] += 1
        while (self.folder / model_id).exists():
            time.sleep(0.01)
        return get_wrapper(model_id, self.namespace).load()

    async def mapped_models(self) -> int:
        return mapped_models()

    async def __call__(self, x: torch.Tensor) -> tuple[int, bytes, int]:
        """The process, the result, and how often it has loaded the model."""
        model_id = serve.get_multiplexed_model_id()
        model = await self.model(model_id)
        with torch.no_grad():
            return os.getpid(), bits(model(x)), self.loads[model_id]


class Base:
    @ray_zerocopy.serve.multiplexed
    async def length(self, model_id: str) -> int:
        return len(model_id)


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Lengths(Base):
    """What it loads are twice the lengths of ids, by a coroutine function that asks that of its base class."""

    @ray_zerocopy.serve.multiplexed
    async def length(self, model_id: str) -> int:
        return 2 * await super().length(model_id)

    async def __call__(self) -> int:
        return await self.length(serve.get_multiplexed_model_id())
