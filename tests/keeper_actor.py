"""The actor that keeps named models, seen from outside, and programs that end."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ray
from object_store import store_is_empty, until

from ray_zerocopy.transport.keeper import ModelName, free, list_models


def keeper() -> Any:
    return ray.get_actor("keeper", namespace="ray_zerocopy")


def end_keeper() -> None:
    """Kill the keeper; the next one is new, and knows of no loss."""
    ray.kill(keeper())
    assert until(lambda: failure(keeper)[0] == "ValueError")  # there is none


def ask_keeper(function: Callable[[Any], Any]) -> Any:
    """What a function, which goes there by value, returns of the keeper within its process."""
    actor = keeper()  # held until the call is made: the methods of the oldest Ray do not hold their actor
    return ray.get(actor.__ray_call__.remote(function))


def keeper_pid() -> int:
    return int(ask_keeper(lambda _: __import__("os").getpid()))


def run_program(code: str, namespace: str | None = None) -> str:
    """Run a program of its own, connected to this cluster, to its end; returns what it printed."""
    context = ray.get_runtime_context()
    connect = f"import ray; ray.init({context.gcs_address!r}, namespace={namespace or context.namespace!r})\n"
    ended = subprocess.run([sys.executable, "-c", connect + code], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@ray.remote(num_cpus=0)
class Holder:
    """Holds what it was given by a program that ends."""

    def __init__(self, actor_wrapper: Any, task_wrapper: Any) -> None:
        self.actor_wrapper = actor_wrapper
        self.task_wrapper = task_wrapper

    def load(self) -> Any:
        return failure(self.actor_wrapper.load)

    def call(self, x: Any) -> Any:
        return failure(self.task_wrapper, x)


def failure(function: Any, *args: Any) -> tuple[str, str]:
    """The class and the message of what `function(*args)` raises."""
    try:
        function(*args)
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def free_all() -> None:
    """Free all models that have names, and wait until the store is empty."""
    for model in list_models():
        free(ModelName(model.name, model.namespace))
    gc.collect()
    assert until(store_is_empty)
