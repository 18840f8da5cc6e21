"""A model to export and to compile: tied weights, buffers of both kinds, one of which a call changes."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

# Of the program that is compiled: 100 MB.
WIDTH = 1024
DEPTH = 3


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Stack(nn.Module):
    """`depth` blocks of 32 x `width`**2 bytes."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Residual(width) for _ in range(depth)])
        self.tied = self.blocks[0].up.weight
        self.register_buffer("scale", torch.randn(width), persistent=False)
        self.register_buffer("calls", torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        for block in self.blocks:
            x = block(x)
        return x * self.scale + self.calls + (x @ self.tied.t()).mean()


def stack(width: int = 64, depth: int = 2) -> Stack:
    torch.manual_seed(0)
    return Stack(width, depth).eval().requires_grad_(False)


def inputs(width: int = 64) -> torch.Tensor:
    return torch.randn(4, width, generator=torch.Generator().manual_seed(1))


def exported(model: Stack, width: int = 64) -> ExportedProgram:
    return torch.export.export(model, (inputs(width),), dynamic_shapes=({0: Dim("batch", min=2, max=64)},))
