"""The four wrappers side by side: one pipeline, eager and TorchScript, run by Ray tasks and in actors.

python examples/new_api_examples.py
"""

from __future__ import annotations

import os
import time

import ray
import torch
from ray.actor import ActorHandle
from torch import nn

from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper, TaskWrapper


class Encoder(nn.Module):
    """Token numbers to one vector a document; 22 MB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(10_000, 512)
        self.layers = nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 512))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layers(self.embedding(tokens))

    @torch.jit.unused
    def process_id(self) -> int:
        return os.getpid()


class Pipeline:
    """Two models, and code of the pipeline's own around them."""

    def __init__(self, encoder: nn.Module, classifier: nn.Module) -> None:
        self.encoder = encoder
        self.classifier = classifier
        self.labels = ("sport", "politics", "science")

    @torch.inference_mode()
    def __call__(self, tokens: torch.Tensor) -> list[str]:
        scores = self.classifier(self.encoder(tokens).relu())
        return [self.labels[row] for row in scores.argmax(dim=1)]


@ray.remote
class Worker:
    """An actor with a pipeline of its own: it needs no more than the wrapper's `load()`."""

    def __init__(self, wrapper: ActorWrapper[Pipeline]) -> None:
        start = time.perf_counter()
        self.pipeline = wrapper.load()
        self.load_seconds = time.perf_counter() - start

    def predict(self, tokens: torch.Tensor) -> list[str]:
        return self.pipeline(tokens)

    def how_long_loading_took(self) -> float:
        return self.load_seconds

    @torch.no_grad()
    def reverse_the_classifier(self) -> None:
        for parameter in self.pipeline.classifier.parameters():
            parameter.neg_()


def task_wrapper(pipeline: Pipeline, tokens: torch.Tensor, expected: list[str]) -> None:
    # `__call__` of each model always runs as a task; name the other methods that shall.
    wrapped = TaskWrapper(pipeline, method_names=("__call__", "process_id"))
    print("TaskWrapper: the pipeline's code runs here, its models in Ray tasks")
    print(f"  same results as the pipeline itself: {wrapped(tokens) == expected}")
    print(f"  the encoder runs in another process: {wrapped.encoder.process_id() != os.getpid()}")
    print(f"  attributes are the pipeline's:       {wrapped.labels}")


def actor_wrapper(pipeline: Pipeline, tokens: torch.Tensor, expected: list[str]) -> None:
    wrapper = ActorWrapper(pipeline)
    one, other = Worker.remote(wrapper), Worker.remote(wrapper)
    print("ActorWrapper: each actor loads the whole pipeline")
    print_actors([one, other], tokens, expected)
    ray.get(one.reverse_the_classifier.remote())
    after = ray.get([one.predict.remote(tokens), other.predict.remote(tokens)])
    print(f"  one wrote to its weights: results changed: {after[0] != expected}, the other's: {after[1] != expected}")


def jit_task_wrapper(scripted: Pipeline, tokens: torch.Tensor, expected: list[str]) -> None:
    wrapped = JITTaskWrapper(scripted)
    print("JITTaskWrapper: the same for TorchScript")
    print(f"  same results as the pipeline itself: {wrapped(tokens) == expected}")


def jit_actor_wrapper(scripted: Pipeline, tokens: torch.Tensor, expected: list[str]) -> None:
    wrapper = JITActorWrapper(scripted)
    print("JITActorWrapper: the same for TorchScript")
    print_actors([Worker.remote(wrapper) for _ in range(2)], tokens, expected)


def print_actors(workers: list[ActorHandle], tokens: torch.Tensor, expected: list[str]) -> None:
    results = ray.get([worker.predict.remote(tokens) for worker in workers])
    seconds = ray.get([worker.how_long_loading_took.remote() for worker in workers])
    print(f"  same results as the pipeline itself: {results == [expected] * len(workers)}")
    print(f"  loaded in {' and '.join(f'{s * 1e3:.0f} ms' for s in seconds)}")


def main() -> None:
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    torch.manual_seed(0)
    pipeline = Pipeline(Encoder().eval(), nn.Linear(512, 3).eval())
    scripted = Pipeline(torch.jit.script(pipeline.encoder), torch.jit.script(pipeline.classifier))
    tokens = torch.randint(0, 10_000, (16, 40))
    expected = pipeline(tokens)

    task_wrapper(pipeline, tokens, expected)
    actor_wrapper(pipeline, tokens, expected)
    jit_task_wrapper(scripted, tokens, expected)
    jit_actor_wrapper(scripted, tokens, expected)
    ray.shutdown()


if __name__ == "__main__":
    main()
