"""Twenty customers' models on one replica of Ray Serve, each loaded when it is asked for.

All have the same MiniLM and labels of their own: in the object store there is one MiniLM.

    python examples/serve_multiplexing.py
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray's core would write between the lines below

import ray
import transformers
from ray import serve
from ray.serve.handle import DeploymentHandle
from serve_topics import TopicClassifier, tokenizer

import ray_zerocopy.serve
from ray_zerocopy import ActorWrapper, get_wrapper, list_models

CUSTOMERS = 20
EXAMPLES = Path(__file__).parent


# --8<-- [start:deployment]
@serve.deployment(ray_actor_options={"num_cpus": 0})
class Models:
    def __init__(self) -> None:
        self.tokenizer = tokenizer()

    @ray_zerocopy.serve.multiplexed(max_num_models_per_replica=10)
    def classifier(self, model_id: str) -> TopicClassifier:
        classifier = get_wrapper(model_id, "serve").load()
        classifier.tokenizer = self.tokenizer  # one for all: it takes longer to load than the weights
        return classifier

    async def __call__(self, text: str) -> tuple[str, float]:
        """The topic, and how many milliseconds it took to get the model."""
        start = time.perf_counter()
        classifier = await self.classifier(serve.get_multiplexed_model_id())
        milliseconds = (time.perf_counter() - start) * 1e3
        return classifier([text])[0], milliseconds


# --8<-- [end:deployment]


# --8<-- [start:ask]
def ask(models: DeploymentHandle, customer: int) -> tuple[str, float]:
    # Over HTTP the header is serve_multiplexed_model_id.
    response = models.options(multiplexed_model_id=f"customer-{customer}").remote("Which spices go into a curry?")
    topic, milliseconds = response.result()
    return topic, milliseconds


# --8<-- [end:ask]


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Replicas import serve_topics. In production it is in their image, or the configuration has a runtime_env for it.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])])
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(
        "local",
        namespace="serve",
        num_cpus=4,
        object_store_memory=400_000_000,
        log_to_driver=False,
        include_dashboard=False,
        logging_level="ERROR",
    )
    for customer in range(CUSTOMERS):
        classifier = TopicClassifier(["sports", f"food of customer {customer}"])
        classifier.tokenizer = None
        ActorWrapper(classifier, name=f"customer-{customer}")
    weights = sum(parameter.nbytes for parameter in classifier.model.parameters())
    used = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
    print(f"{len(list_models())} models of {weights / 1e6:.0f} MB; in use in the object store: {used / 1e6:.0f} MB")

    models = serve.run(Models.bind(), name="models", route_prefix=None)
    ask(models, 0)  # the first one imports what all need
    for title in ("first request", "once more"):
        answers = [ask(models, customer) for customer in range(10)]
        right = sum(topic == f"food of customer {customer}" for customer, (topic, _) in enumerate(answers))
        median = sorted(milliseconds for _, milliseconds in answers)[5]
        print(f"{title}: {right} of 10 answers are their customer's own; the model was there after {median:.2f} ms")
    evicting = [ask(models, customer)[0] for customer in range(CUSTOMERS)]
    right = sum(topic == f"food of customer {customer}" for customer, topic in enumerate(evicting))
    print(f"all customers, with room for 10: {right} of {CUSTOMERS} answers are their customer's own")
    ray.shutdown()  # and with it Serve, which runs in this cluster


if __name__ == "__main__":
    main()
