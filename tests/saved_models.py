"""Pipelines that are saved to files, and processes that load them: apart, since processes import this by name."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from memory import bits
from torch import nn


class Head(nn.Module):
    """Tied weights, a view of another parameter's storage, buffers of both kinds, several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.decoder = nn.Linear(8, 50, bias=False)
        self.decoder.weight = self.embedding.weight
        self.small = nn.Parameter(torch.randn(6, 4).bfloat16())
        self.register_buffer("view", self.small.data[2:4])
        self.register_buffer("scratch", torch.arange(5), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.transposed = nn.Parameter(torch.randn(3, 5).t())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.embedding(ids)) + self.small.sum() + self.view.sum() + self.scratch.sum()


class Mixed:
    """A pipeline with models in several places, arrays, and plain tensors."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.head = Head()
        self.stages = {"a": [nn.Linear(8, 8)]}
        self.table = np.arange(100_000, dtype=np.float64)
        self.window = self.table[10:90_000:3]
        self.plain = torch.randn(5).to(torch.float8_e4m3fn)
        self.threshold = 0.5

    def __call__(self, ids: torch.Tensor) -> bytes:
        with torch.no_grad():
            of_head = self.head(ids).float()
            of_stage = self.stages["a"][0](self.head.embedding(ids))
        return b"".join(map(bits, (of_head, of_stage, self.table, self.window, self.plain.float())))


def large(megabytes: int = 80) -> nn.Sequential:
    """4 MB a layer, and no bias."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(megabytes // 4))).eval()


def output(model: Any) -> bytes:
    x = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return bits(model(x))


class Process:
    """A Python of its own, without Ray, that runs statements and answers with the `repr` of an expression."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._python = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def do(self, code: str) -> Any:
        """Run code; returns the value of its last line, an expression."""
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(repr(code) + "\n")
        self._python.stdin.flush()
        answer = self._python.stdout.readline()
        if not answer:
            self._python.wait()
            self._errors.seek(0)
            raise AssertionError(self._errors.read())
        return eval(answer)

    def close(self) -> None:
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.close()
        self._python.wait(60)
        self._python.stdout.close()
        self._errors.close()


_SERVER = """
import sys
names = {}
for line in sys.stdin:
    *body, last = eval(line).strip().splitlines()
    exec("\\n".join(body), names)
    print(repr(eval(last, names)), flush=True)
"""


@contextmanager
def processes(count: int) -> Iterator[list[Process]]:
    started = [Process() for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.close()
