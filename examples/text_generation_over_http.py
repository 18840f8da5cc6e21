"""Text generation over HTTP: two replicas of Ray Serve complete texts with one copy of a language model's weights.

The model has GPT-2's architecture, small, and learns one sentence here, in some seconds: nothing is downloaded. Any
other `transformers.pipeline` is served in the same way.

    python examples/text_generation_over_http.py
"""

import json
import logging
import os
import socket
import urllib.parse
import urllib.request

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray's core would write between the lines below

import ray
import torch
import transformers
from fastapi import FastAPI
from ray import serve
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ray_zerocopy import ActorWrapper

SENTENCE = "A node keeps one copy of the weights, and every worker uses it as if it were its own."

app = FastAPI()


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})
@serve.ingress(app)
class Completion:
    """One replica: a process that loads the pipeline, whose weights are the node's one copy."""

    def __init__(self, wrapper: ActorWrapper) -> None:
        self.pipeline = wrapper.load()  # no weight is copied

    @app.post("/complete")
    def complete(self, prompt: str, max_new_tokens: int = 100) -> dict[str, str]:
        """The prompt and what follows it."""
        [completed] = self.pipeline(prompt, max_new_tokens=max_new_tokens, do_sample=False)
        return {"text": completed["generated_text"]}


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(characters)} | {"<|end|>": len(characters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def text_generation() -> transformers.Pipeline:
    """A pipeline whose model has learnt the sentence."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_layer=2,
        n_head=4,
        n_embd=128,
        n_positions=128,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = transformers.GPT2LMHeadModel(config)
    tokens = tokenizer(SENTENCE + tokenizer.eos_token, return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def main() -> None:
    transformers.logging.set_verbosity_error()
    ray.init(
        "local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    port = free_port()
    serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
    # The name is what replicas find the weights by, also those that Serve starts later.
    wrapper = ActorWrapper(text_generation(), name="completion")
    serve.run(Completion.bind(wrapper), logging_config={"log_level": "ERROR"})

    prompt = "A node keeps"
    query = urllib.parse.urlencode({"prompt": prompt})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/complete?{query}", b"", timeout=60) as response:
        text = json.load(response)["text"]
    print(f"POST /complete {prompt!r}")
    print(f"  {text!r}")
    print(f"  as it was learnt: {text == SENTENCE}")
    ray.shutdown()


if __name__ == "__main__":
    main()
