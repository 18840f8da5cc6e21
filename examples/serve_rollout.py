"""A model in Ray Serve, and new weights for it under load: serve_topics.py, deployed by serve_topics.yaml.

python examples/serve_rollout.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray's core would write between the lines below
import ray
import transformers
from ray import serve
from serve_topics import TopicClassifier

from ray_zerocopy import ActorWrapper, list_models

EXAMPLES = Path(__file__).parent
URL = "http://127.0.0.1:8123/topic"
QUESTION = "Which spices go into a good curry?"
CLIENTS = 4


def deploy() -> None:
    """What `serve run serve_topics.yaml` does in a shell; `serve deploy` does it through the cluster's dashboard."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--non-blocking", "--address", address]
    subprocess.run([*command, "serve_topics.yaml"], cwd=EXAMPLES, check=True, capture_output=True)
    while (topics := serve.status().applications["topics"]).status != "RUNNING":
        if topics.status == "DEPLOY_FAILED":
            raise RuntimeError(f"{topics.message} {topics.deployments}")
        time.sleep(0.1)


# --8<-- [start:publish]
def publish(labels: list[str]) -> None:
    ActorWrapper(TopicClassifier(labels), name="topics", lifetime="detached", replace=True)


# --8<-- [end:publish]


def ask(text: str) -> dict[str, str]:
    """The service's answer over HTTP; raises for any that is not 200."""
    request = urllib.request.Request(URL, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, str] = json.load(response)
        return answer


class Load:
    """Clients that ask the same question again and again; how often they got which answer."""

    def __init__(self) -> None:
        self.topics: Counter[str] = Counter()
        self.replicas: set[str] = set()
        self.failed = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = ask(QUESTION)
            except OSError:
                self.failed += 1
            else:
                self.topics[answer["topic"]] += 1
                self.replicas.add(answer["replica"])


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Replicas import serve_topics. In production it is in their image, or the configuration has a runtime_env for it.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(
        "local",
        namespace="serve",
        num_cpus=4,
        object_store_memory=600_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    publish(["sports", "music", "politics"])
    deploy()
    print(f"deployed by serve_topics.yaml; {QUESTION!r} is about: {ask(QUESTION)['topic']}")
    with Load() as load:
        time.sleep(2)
        publish(["sports", "music", "politics", "food"])
        start = time.monotonic()
        while load.topics["food"] < 100 and time.monotonic() - start < 60:
            time.sleep(0.1)
    print(f"answers under load, while new weights were published: {dict(load.topics)}, failed: {load.failed}")
    print(f"replicas that answered: {len(load.replicas)}")
    print(f"after the rollout: {Counter(ask(QUESTION)['topic'] for _ in range(20))}")
    for model in list_models():
        print(f"kept in the object store: {model.name!r}, {model.nbytes / 1e6:.0f} MB")
    ray.shutdown()  # and with it Serve, which runs in this cluster


if __name__ == "__main__":
    main()
