"""A Serve application of a wrapper with a name."""

from __future__ import annotations

import os
from typing import Any

import torch
from pipelines import Classifier
from ray import serve
from ray.serve import Application

from ray_zerocopy import ActorWrapper


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
