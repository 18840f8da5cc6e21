"""An image on its way into a file, which `docs/image_format.md` specifies; the engine lays it out and writes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

from ray_zerocopy import _engine
from ray_zerocopy.image.freezing import Frozen, package_of
from ray_zerocopy.image.names import constants_of, placed

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
    writer = _engine.ImageWriter(producer())
    for memory in frozen.blocks.memories():
        writer.add_block(memory.data)
    for name, tensor in names:
        form = placed(tensor, frozen.blocks, frozen.storages)
        if form is not None:
            writer.add_tensor(name, *form)
    for scripts in frozen.archives.values():
        modules = [(number, place, list(path)) for number, (place, path) in scripts.modules.items()]
        records = writer.add_blob(scripts.archive)
        writer.add_archive(records, scripts.blocks, scripts.sizes, scripts.has_storages, modules)
    for name, root in zip(frozen.names, frozen.roots, strict=True):
        skeleton = writer.add_blob(root.pickled)
        tensor_blocks, host_blocks = sorted(root.met.tensors), sorted(root.met.host)
        writer.add_root(name, skeleton, root.buffers, frozen.archive(root), tensor_blocks, host_blocks)
    for program in frozen.programs:
        constants = {
            name: form
            for name, tensor in constants_of(program).items()
            if (form := placed(tensor, frozen.blocks, frozen.storages)) is not None
        }
        writer.add_program(writer.add_blob(package_of(program)), constants)
    for key, value in metadata.items():
        writer.add_metadata(key, value)
    return writer.write(path, _THREADS, progress)


def producer() -> str:
    """What writes the files that are written here."""
    try:
        package = version("ray-zerocopy")
    except PackageNotFoundError:  # the sources alone
        package = "of an unknown version"
    python = ".".join(map(str, sys.version_info[:2]))
    return f"ray_zerocopy {package}, torch {torch.__version__}, Python {python}"
