"""Ray Serve: new weights under load, and models by their ids."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from keeper_actor import free_all
from memory import weight_bytes
from object_store import store_in_use, until
from pipelines import Classifier, encoded
from ray import serve
from ray.serve.handle import DeploymentHandle
from serve_app import Lengths, Multiplexed, Rolling, classifier

from ray_zerocopy import ActorWrapper, get_wrapper

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("cluster", "port")]

WIDTH = 2048
LARGE = weight_bytes(classifier(width=WIDTH))  # 17 MB
X = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def port(cluster: None) -> Iterator[int]:
    """Of Serve over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    yield number
    serve.shutdown()
    free_all()


def publish(name: str, seed: int) -> ActorWrapper[Classifier]:
    return ActorWrapper(classifier(seed, WIDTH), name=name, lifetime="detached", replace=True)


def answer(seed: int) -> bytes:
    return encoded(classifier(seed, WIDTH), X)


class Client:
    """Asks over HTTP, one request after the other, until it is told to stop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: list[tuple[int, bytes]] = []
        """Of each the process, and the result."""
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def ask(self) -> tuple[int, bytes, int]:
        """The process, the result, and how many models the process has mapped."""
        data = json.dumps(X.tolist()).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/rolling", data, timeout=60) as response:
            answered = json.load(response)
        return answered["pid"], bytes.fromhex(answered["result"]), answered["mapped"]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self.ask()[:2])
            except (urllib.error.URLError, OSError) as error:
                self.failures.append(error)


def test_new_weights_under_load_fail_no_request_and_mix_no_answer(port: int) -> None:
    versions = {answer(seed): seed for seed in range(4)}
    empty = store_in_use()
    serve.run(Rolling.bind(publish("rolling", 0)), name="rolling", route_prefix="/rolling")
    clients = [Client(port) for _ in range(4)]

    def versions_seen() -> dict[int, int | None]:
        """Of each replica the version of its latest answer; None: that is none of the versions."""
        return {pid: versions.get(result) for client in clients for pid, result in client.answers[-20:]}

    for seed in range(4):
        if seed > 0:
            publish("rolling", seed)
        assert until(lambda seed=seed: sorted(versions_seen().values()) == [seed, seed], 60)
    after = [client.ask() for client in clients for _ in range(5)]
    for client in clients:
        client.stop()
    assert [failure for client in clients for failure in client.failures] == []
    assert {versions[result] for _, result, _ in after} == {3}
    for client in clients:
        for pid in {pid for pid, _ in client.answers}:
            seen = [versions[result] for answered, result in client.answers if answered == pid]
            assert seen == sorted(seen)  # no replica goes back
    assert {clients[0].ask()[2] for _ in range(10)} == {1}
    assert until(lambda: LARGE < store_in_use() - empty < 1.2 * LARGE)
    serve.delete("rolling")
    get_wrapper("rolling").free()
    assert until(lambda: store_in_use() - empty < 1 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(port: int, folder: Path) -> Iterator[DeploymentHandle]:
    for seed in range(4):
        publish(f"model-{seed}", seed)
    namespace = ray.get_runtime_context().namespace
    yield serve.run(Multiplexed.bind(str(folder), namespace), name="models", route_prefix=None)
    serve.delete("models")
    free_all()


def ask(models: DeploymentHandle, model_id: str) -> Any:
    return models.options(multiplexed_model_id=model_id).remote(X)


def test_each_model_id_gets_its_model_and_requests_find_the_replica_that_has_it(models: DeploymentHandle) -> None:
    for seed in range(4):
        assert ask(models, f"model-{seed}").result()[1] == answer(seed)
    ids = itertools.cycle(f"model-{seed}" for seed in range(4))
    assert until(lambda: len(replicas_asked(models, next(ids))) == 1)


def replicas_asked(models: DeploymentHandle, model_id: str) -> set[int]:
    """Which replicas get requests for a model when one of them has it, unless both had it before."""
    ask(models, model_id).result()
    time.sleep(0.5)  # Serve hears of it every 0.1 s
    return {ask(models, model_id).result()[0] for _ in range(8)}


def test_a_model_that_takes_long_to_load_holds_up_no_other(models: DeploymentHandle, folder: Path) -> None:
    one = models.options(multiplexed_model_id="model-0")
    assert one.remote(X).result()[1] == answer(0)
    (folder / "model-1").touch()
    slow = [ask(models, "model-1") for _ in range(8)]  # as many as will reach both replicas
    for seed in (2, 3, 0):
        assert all(ask(models, f"model-{seed}").result(timeout_s=60)[1] == answer(seed) for _ in range(4))
    (folder / "model-1").unlink()
    answers = [response.result(timeout_s=60) for response in slow]
    assert {result for _, result, _ in answers} == {answer(1)}
    loads = {pid: {loads for other, _, loads in answers if other == pid} for pid, _, _ in answers}
    assert all(len(of_replica) == 1 for of_replica in loads.values())  # requests that came meanwhile share one load


def test_a_model_that_does_not_load_is_an_error_and_takes_nobodys_place(models: DeploymentHandle) -> None:
    pid, result, loads = ask(models, "model-0").result()
    for _ in range(8):
        with pytest.raises(ValueError, match="no model 'unknown'"):
            ask(models, "unknown").result()
    with pytest.raises(ValueError, match=r"names no model.*header serve_multiplexed_model_id"):
        models.remote(X).result()
    assert until(lambda: ask(models, "model-0").result() == (pid, result, loads))


def test_a_model_that_is_evicted_pins_nothing(models: DeploymentHandle, folder: Path) -> None:
    serve.delete("models")
    bound = Multiplexed.options(num_replicas=1).bind(str(folder), ray.get_runtime_context().namespace)
    models = serve.run(bound, name="one replica", route_prefix=None)
    for seed in range(4):
        assert ask(models, f"model-{seed}").result()[1] == answer(seed)
    assert models.mapped_models.remote().result() == 2
    for seed in range(4):
        get_wrapper(f"model-{seed}").free()
    assert ask(models, "model-3").result()[1] == answer(3)
    serve.delete("one replica")
    assert until(lambda: store_in_use() < 1 << 20)


def test_a_coroutine_function_loads_as_well_and_may_ask_the_one_of_its_base_class(port: int) -> None:
    lengths = serve.run(Lengths.bind(), name="lengths", route_prefix=None)
    for model_id in ("one", "three", "one"):
        assert lengths.options(multiplexed_model_id=model_id).remote().result() == 2 * len(model_id)
    serve.delete("lengths")
