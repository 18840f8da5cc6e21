"""An image on its way into a file, which `docs/image_format.md` specifies; the engine lays it out and writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import torch

from ray_zerocopy.image.freezing import Frozen
from ray_zerocopy.image.names import placed

_THREADS = min(2, os.cpu_count() or 1)
"""More write no faster: the kernel lets one thread at a time write to a file."""

Progress = Callable[[int, int], None]
"""Is told how many bytes have been written, and how many there are."""


def write(
    frozen: Frozen,
    path: str,
    names: Iterable[tuple[str, torch.Tensor]],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> str:
    """Writes frozen objects to a file, which appears under its name when it is complete.

    Args:
        frozen: with neither externals nor parts that are not to be shared.
        path: of the file; one that exists is replaced in one step.
        names: of tensors that other programs are to find; one that cannot have a name is passed over.
        metadata: what the file's header is to hold besides.
        progress: called now and then.

    Returns:
        The file's digest.

    Raises:
        OSError: the file cannot be written. Then there is none, or the one that there was.
    """
    writer = frozen.writer()
    for name, tensor in names:
        form = placed(tensor, frozen.blocks, frozen.storages)
        if form is not None:
            writer.add_tensor(name, *form)
    for key, value in metadata.items():
        writer.add_metadata(key, value)
    return writer.write(path, _THREADS, progress)
