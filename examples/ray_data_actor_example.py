"""Batch inference with Ray Data: a pool of actors that share one copy of the model's weights.

python examples/ray_data_actor_example.py
"""

from __future__ import annotations

import collections
import logging
import os
from typing import Any

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray's core would write between the lines below

import numpy as np
import ray
import ray.data
import torch
from torch import nn

from ray_zerocopy import ActorWrapper

IMAGES = 512
PICTURES = 500
PIXELS = 64 * 64 * 3
WORKERS = 2


def picture(number: int) -> np.ndarray:
    """One of the pictures that the recognizer knows: uint8 of shape (64, 64, 3)."""
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)


class Recognizer:
    """The pipeline: preprocessing, and a model that says which known picture an image shows; 25 MB of weights."""

    def __init__(self) -> None:
        self.model = nn.Linear(PIXELS, PICTURES, bias=False).eval()
        with torch.no_grad():
            for number in range(PICTURES):
                self.model.weight[number] = self.preprocess(picture(number))

    def preprocess(self, images: np.ndarray) -> torch.Tensor:
        """To vectors of mean 0 and length 1."""
        pixels = torch.from_numpy(images).float().reshape(-1, PIXELS)
        return nn.functional.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=1)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images: uint8 of shape (n, 64, 64, 3). Gives the numbers of n pictures."""
        return self.model(self.preprocess(images)).argmax(dim=1).numpy()


class Worker:
    """What Ray Data makes of an actor: it gets the wrapper once, then batch after batch."""

    def __init__(self, wrapper: ActorWrapper[Recognizer]) -> None:
        self.recognizer = wrapper.load()  # no weight is copied

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self.recognizer(batch["image"])
        return {"shown": batch["shown"], "found": found, "worker": np.full(len(found), os.getpid())}


def add_image(row: dict[str, int]) -> dict[str, Any]:
    """A known picture, half of it noise. Stands for reading a file: `ray.data.read_images` would be here."""
    shown = row["id"] % PICTURES
    return {"shown": shown, "image": picture(shown) // 2 + picture(PICTURES + row["id"]) // 2}


def main() -> None:
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = 600  # begin when all workers are there, so that each gets its part

    wrapper = ActorWrapper(Recognizer())  # the weights go to the object store, once
    images = ray.data.range(IMAGES, override_num_blocks=32).map(add_image).materialize()
    results = images.map_batches(
        Worker,
        fn_constructor_kwargs={"wrapper": wrapper},
        compute=ray.data.ActorPoolStrategy(size=WORKERS),
        batch_size=16,
        num_cpus=0.5,
    ).take_all()
    right = sum(row["found"] == row["shown"] for row in results)
    print(f"{right} of {len(results)} images recognized")
    for number, (_, count) in enumerate(collections.Counter(row["worker"] for row in results).items(), start=1):
        print(f"worker {number}: {count} images")
    ray.shutdown()


if __name__ == "__main__":
    main()
