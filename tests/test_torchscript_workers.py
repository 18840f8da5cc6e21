"""TorchScript in workers: what it costs them, and whose state is whose."""

from collections.abc import Iterator
from typing import Any

import pytest
import ray
import silero_vad
import torch
from bert import token_ids
from memory import bits, give_back_free_memory, own_bytes, weight_bytes
from pipelines import Worker, warm_up_script
from torch import nn
from transformers import BertConfig, BertModel

from ray_zerocopy import ActorWrapper, JITActorWrapper, JITTaskWrapper

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def processes(cluster: None) -> list[Any]:
    return [Worker.remote(warm_up_script) for _ in range(4)]


@pytest.fixture
def workers(processes: list[Any]) -> Iterator[list[Any]]:
    """Four workers that hold nothing."""
    yield processes
    ray.get([worker.drop.remote() for worker in processes])


class States(nn.Module):
    """BERT's last hidden state, as an attribute of what it returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bert = BertModel(BertConfig(return_dict=False)).eval()

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"last_hidden_state": self.bert(ids)[0]}


def test_a_traced_bert_costs_four_actors_and_the_driver_almost_nothing_and_computes_the_same(
    workers: list[Any],
) -> None:
    torch.set_num_threads(1)  # as in the workers: the order of sums must be the same
    ids = token_ids()
    with torch.no_grad():
        traced = torch.jit.trace(States(), (ids,), strict=False, check_trace=False)
    weights = weight_bytes(traced)
    assert weights > 430e6
    ray.get(ray.put(b"x" * 1_000_000))
    before = own_bytes()
    wrapper = JITActorWrapper(traced)
    assert own_bytes() - before < 0.05 * weights

    def hidden(model: Any) -> bytes:
        with torch.no_grad():
            return bits(model(ids)["last_hidden_state"])

    had_grown = ray.get([worker.grown.remote() for worker in workers])
    ray.get([worker.load.remote(wrapper) for worker in workers])
    for nth in range(3):  # the second and the third call run code that was optimised after the first
        assert set(ray.get([worker.do.remote(hidden) for worker in workers])) == {hidden(traced)}
        if nth == 0:
            for before, grown in zip(had_grown, ray.get([worker.grown.remote() for worker in workers]), strict=True):
                assert grown - before < 0.065 * weights  # 4.2 to 5.9 %; how full the heaps were decides
            ray.get([worker.do.remote(give_back_free_memory) for worker in workers])
            for before, grown in zip(had_grown, ray.get([worker.grown.remote() for worker in workers]), strict=True):
                assert grown - before < 0.035 * weights


def test_two_workers_share_a_frozen_and_a_scripted_module_with_tied_weights(workers: list[Any]) -> None:
    def net() -> nn.Module:
        return nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(20))).eval()

    scripted = torch.jit.script(net())
    pipeline = {"scripted": scripted, "frozen": torch.jit.freeze(scripted)}
    weights = weight_bytes(scripted)
    assert weights > 80e6
    x = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0))

    def run(loaded: Any) -> tuple[bytes, bytes]:
        with torch.no_grad():
            return bits(loaded["scripted"](x)), bits(loaded["frozen"](x))

    def write(loaded: Any) -> None:
        with torch.no_grad():
            for parameter in loaded["scripted"].parameters():
                parameter.add_(1)

    torch.set_num_threads(1)
    in_store = ray.available_resources()["object_store_memory"]
    wrapper = ActorWrapper(pipeline)
    writer, reader = workers[:2]
    had_grown = ray.get([worker.grown.remote() for worker in (writer, reader)])
    ray.get([worker.load.remote(wrapper) for worker in (writer, reader)])
    expected = run(pipeline)
    assert ray.get([worker.do.remote(run) for worker in (writer, reader)]) == [expected, expected]
    for before, grown in zip(had_grown, ray.get([worker.grown.remote() for worker in (writer, reader)]), strict=True):
        assert grown - before < 0.05 * weights
    assert in_store - ray.available_resources()["object_store_memory"] < 1.05 * weights
    ray.get(writer.do.remote(write))
    changed = ray.get(writer.do.remote(run))
    assert changed[0] != expected[0]
    assert changed[1] != expected[1]  # tied: the frozen module has the same weights
    assert ray.get(reader.do.remote(run)) == expected


def speech(seed: int) -> torch.Tensor:
    """Ten chunks of 512 samples at 16 kHz: a tone that swells, in noise."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(5120) / 16_000
    tone = torch.sin(2 * torch.pi * (150 + 50 * seed) * time) * time * 3
    return (tone + 0.05 * torch.randn(5120, generator=generator)).reshape(10, 512)


def test_silero_vad_in_two_actors_fed_in_turns_keeps_each_streams_state(workers: list[Any]) -> None:
    torch.set_num_threads(1)
    model = silero_vad.load_silero_vad()
    wrapper = ActorWrapper({"vad": model})
    two = workers[:2]
    ray.get([worker.load.remote(wrapper) for worker in two])
    streams = [speech(1), speech(2)]
    heard: list[list[float]] = [[], []]
    for chunk in range(10):
        for worker, stream, probabilities in zip(two, streams, heard, strict=True):
            sound = stream[chunk]
            call = worker.do.remote(lambda p, sound: float(p["vad"](sound, 16_000)), sound)
            probabilities.append(ray.get(call))
    for stream, probabilities in zip(streams, heard, strict=True):
        private = silero_vad.load_silero_vad()
        assert probabilities == [float(private(sound, 16_000)) for sound in stream]
    assert heard[0] != heard[1]


@pytest.mark.usefixtures("cluster")
def test_silero_vad_in_tasks_hears_every_chunk_as_the_first() -> None:
    torch.set_num_threads(1)
    wrapped = JITTaskWrapper({"vad": silero_vad.load_silero_vad()}["vad"])
    for sound in speech(3)[:4]:
        assert float(wrapped(sound, 16_000)) == float(silero_vad.load_silero_vad()(sound, 16_000))
