"""BERT-base, apart from the other models: importing `transformers` takes a worker seconds."""

from __future__ import annotations

from typing import Any

import torch
from memory import bits
from transformers import BertConfig, BertModel


def bert(seed: int = 0) -> BertModel:
    """BERT-base of `transformers`' default configuration with random weights: 438 MB."""
    torch.manual_seed(seed)
    return BertModel(BertConfig()).eval()


def token_ids(seed: int = 0, length: int = 32) -> torch.Tensor:
    return torch.randint(0, 30_000, (1, length), generator=torch.Generator().manual_seed(seed))


def warm_up_bert() -> None:
    """A forward pass of a small BERT: all that the large one imports and allocates once."""
    config = BertConfig(num_hidden_layers=1, vocab_size=100)
    with torch.no_grad():
        BertModel(config).eval()(torch.zeros(1, 32, dtype=torch.long))


def output(model: Any, ids: torch.Tensor) -> bytes:
    """The bits of the model's last hidden state."""
    with torch.no_grad():
        return bits(model(ids).last_hidden_state)
