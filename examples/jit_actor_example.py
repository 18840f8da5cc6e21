"""TorchScript pipelines in actors: one model, several models, preprocessing, a GPU where there is one.

python examples/jit_actor_example.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
import torch
from torch import nn

from ray_zerocopy import JITActorWrapper

WORKERS = 2


@ray.remote
class Worker:
    """Loads whatever pipeline it is given, and calls it."""

    def __init__(self, wrapper: JITActorWrapper[Any]) -> None:
        start = time.perf_counter()
        self.pipeline = wrapper.load()
        self.load_seconds = time.perf_counter() - start

    @torch.inference_mode()
    def run(self, *inputs: Any) -> tuple[Any, float]:
        return self.pipeline(*inputs), self.load_seconds


def network(inputs: int, outputs: int) -> nn.Sequential:
    hidden = 1024
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    return nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)


def in_actors(wrapper: JITActorWrapper[Any], *inputs: Any, num_gpus: int = 0) -> list[Any]:
    """The results of all workers; also prints how long they took to load."""
    workers = [Worker.options(num_gpus=num_gpus / WORKERS).remote(wrapper) for _ in range(WORKERS)]
    results, seconds = zip(*ray.get([worker.run.remote(*inputs) for worker in workers]), strict=True)
    print(f"  loaded in {' and '.join(f'{s * 1e3:.0f} ms' for s in seconds)}")
    return list(results)


def one_model() -> None:
    """The model itself is the pipeline."""
    images = torch.randn(4, 784)
    model = torch.jit.trace(network(784, 10).eval(), images)
    print("one traced model")
    results = in_actors(JITActorWrapper(model), images)
    print(f"  same results as the model itself: {all(torch.allclose(r, model(images), atol=1e-5) for r in results)}")


class Ensemble:
    """Models in a dict, and one that combines what they say; two of them share their weights."""

    def __init__(self) -> None:
        shared = torch.jit.script(network(256, 64).eval())
        self.experts = {"left": shared, "right": torch.jit.script(network(256, 64).eval()), "both": shared}
        self.judge = torch.jit.freeze(torch.jit.script(nn.Linear(3 * 64, 2).eval()))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return self.judge(torch.cat([expert(features) for expert in self.experts.values()], dim=1))


def several_models() -> None:
    ensemble, features = Ensemble(), torch.randn(4, 256)
    print("several models, two of them one and the same, one of them frozen")
    expected = ensemble(features)
    results = in_actors(JITActorWrapper(ensemble), features)
    print(f"  same results as the pipeline itself: {all(torch.allclose(r, expected, atol=1e-5) for r in results)}")


class DigitReader:
    """Preprocessing in numpy, a model, and a word for what it finds: everything goes to the actor."""

    def __init__(self) -> None:
        self.words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        nearest = nn.Linear(28 * 28, 10).eval()  # the digit whose drawing is nearest
        with torch.no_grad():
            drawings = torch.from_numpy(self.preprocess(np.stack([drawn(digit) for digit in range(10)])))
            nearest.weight.copy_(drawings)
            nearest.bias.copy_(-0.5 * drawings.square().sum(dim=1))
        self.model = torch.jit.script(nearest)

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) / 255 - np.float32(0.5)

    def __call__(self, images: np.ndarray) -> list[str]:
        """Images: uint8 of shape (n, 28, 28)."""
        scores = self.model(torch.from_numpy(self.preprocess(images)))
        return [self.words[row] for row in scores.argmax(dim=1)]


def drawn(digit: int) -> np.ndarray:
    """A digit as a calculator shows it: uint8 of shape (28, 28)."""
    strokes = [np.s_[2:5, 8:20], np.s_[3:14, 6:9], np.s_[3:14, 19:22], np.s_[12:15, 8:20]]
    strokes += [np.s_[14:25, 6:9], np.s_[14:25, 19:22], np.s_[23:26, 8:20]]
    lit = ("1110111", "0010010", "1011101", "1011011", "0111010")
    lit += ("1101011", "1101111", "1010010", "1111111", "1111011")
    image = np.zeros((28, 28), np.uint8)
    for stroke, on in zip(strokes, lit[digit], strict=True):
        if on == "1":
            image[stroke] = 255
    return image


def preprocessing() -> None:
    noise = np.random.default_rng(0).integers(0, 100, (4, 28, 28), np.uint8)
    images = np.stack([drawn(digit) // 2 for digit in (3, 1, 4, 1)]) + noise
    print("a pipeline with preprocessing")
    results = in_actors(JITActorWrapper(DigitReader()), images)
    print(f"  noisy images of 3, 1, 4, 1 in, words out: {', '.join(results[0])}")


class OnDevice:
    """Brings inputs to where the model is, and results back."""

    def __init__(self, model: torch.jit.ScriptModule) -> None:
        self.model = model

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        device = next(self.model.parameters()).device
        return self.model(features.to(device)).cpu()


def on_a_gpu() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: the same wrapper with device='cuda' would upload the weights from the shared pages")
        return
    pipeline, features = OnDevice(torch.jit.script(network(256, 64).eval())), torch.randn(4, 256)
    print("on a GPU, where each worker has a copy of its own")
    expected = pipeline(features)
    results = in_actors(JITActorWrapper(pipeline, device="cuda"), features, num_gpus=1)
    print(f"  results close to those of the CPU: {all(torch.allclose(r, expected, atol=1e-2) for r in results)}")


def main() -> None:
    ray.init(
        "local",
        num_cpus=WORKERS,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    torch.manual_seed(0)
    one_model()
    several_models()
    preprocessing()
    on_a_gpu()
    ray.shutdown()


if __name__ == "__main__":
    main()
