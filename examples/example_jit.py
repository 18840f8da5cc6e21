"""TorchScript models in Ray tasks: weights in the object store once, every call on a fresh model, calls in parallel.

python examples/example_jit.py
"""

from __future__ import annotations

import threading

import ray
import torch
from torch import nn

from ray_zerocopy import JITTaskWrapper


class Denoiser(nn.Module):
    """A model with a state: the average of all signals that it has seen, which it takes away from the next."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(1024, 1024), nn.Tanh(), nn.Linear(1024, 1024))
        self.register_buffer("average", torch.zeros(1024))

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        filtered = self.filter(signal - self.average)
        self.average.mul_(0.9).add_(signal.mean(dim=0), alpha=0.1)
        return filtered

    @torch.jit.export
    def seen(self) -> torch.Tensor:
        """The norm of the average: 0 for a model that has seen nothing."""
        return self.average.norm()


class Pipeline:
    """Models of both kinds: a scripted one, and a traced one."""

    def __init__(self, signals: torch.Tensor) -> None:
        self.denoiser = torch.jit.script(Denoiser().eval())
        self.classifier = torch.jit.trace(nn.Linear(1024, 5).eval(), signals)

    @torch.inference_mode()
    def __call__(self, signals: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.denoiser(signals)).softmax(dim=1)


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
    signals = torch.randn(8, 1024)
    pipeline = Pipeline(signals)
    # Exported methods run as tasks if they are named; `__call__` and `forward` do anyway.
    wrapped = JITTaskWrapper(pipeline, method_names=("__call__", "forward", "seen"))

    first, second = wrapped(signals), wrapped(signals)
    print(f"two calls, each on a fresh model, give the same: {torch.equal(first, second)}")
    print(f"what a call changed in the model is gone:        {wrapped.denoiser.seen().item() == 0}")

    expected = pipeline(signals)
    print(f"the first call of the pipeline itself gives it:  {torch.allclose(first, expected)}")
    print(f"its second call differs, for it keeps its state: {not torch.allclose(pipeline(signals), expected)}")

    # A call waits for its result. To have several under way, call from several threads, or from Ray tasks.
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(wrapped(signals))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"six calls from six threads agree:                {all(torch.equal(r, first) for r in results)}")

    @ray.remote
    def in_a_task(pipeline: JITTaskWrapper[Pipeline]) -> torch.Tensor:
        return pipeline(signals)

    from_a_task = ray.get(in_a_task.remote(wrapped))
    print(f"and so does one from another task:               {torch.equal(from_a_task, first)}")
    ray.shutdown()


if __name__ == "__main__":
    main()
