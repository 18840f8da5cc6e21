"""Files with a pipeline in them, opened."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ray_zerocopy import _engine
from ray_zerocopy.image import Image, Thawed, files, thaw_in_view

_CLASS = "ray_zerocopy.pipeline"
_MODELS = "ray_zerocopy.models"


def metadata_of(pipeline: Any, models: Sequence[str]) -> dict[str, str]:
    """What the header of a pipeline's file says for `opened`.

    Args:
        pipeline: whose class is noted.
        models: where each of its outermost models is within it.
    """
    return {_CLASS: type(pipeline).__name__, _MODELS: json.dumps(list(models))}


class FileSource(NamedTuple):
    """A file that a process may find at a path. Small to pickle."""

    path: str
    """Absolute."""
    digest: str

    def opened(self) -> Saved | None:
        """The file, open, where this machine has it with that very content; else None."""
        try:
            found = opened(self.path)
        except (OSError, ValueError):
            return None
        return found if found.digest == self.digest else None


class Saved(NamedTuple):
    """A file with a pipeline in it, open."""

    image: Image
    """Its segments are the file's own pages, and keep the file."""
    path: str
    """Absolute."""
    digest: str
    models: tuple[str, ...]
    """Where each outermost model is within the pipeline, as `FrozenPipeline.models`."""
    class_name: str
    """The pipeline's class."""
    producer: str
    """What wrote the file."""

    def load(self, skeleton: int, device: torch.device | str | None) -> Thawed:
        """One of the image's roots, prefaulted in the background.

        Raises:
            Exception: as when any pickle is loaded; a note says what wrote the file.
        """
        try:
            thawed = thaw_in_view(self.image, device, skeleton=skeleton)
        except Exception as error:
            error.add_note(f"While the file {self.path!r} was loaded, which was written by {self.producer}.")
            raise
        thawed.prefault()
        return thawed


def opened(path: str | os.PathLike[str]) -> Saved:
    """Opens a file that `save` wrote, without unpickling anything.

    Raises:
        FileNotFoundError, OSError, ValueError: as `load`.
    """
    where = os.path.abspath(os.fspath(path))
    try:
        file = _engine.Image.open(where)
    except _engine.ImageError as error:
        if error.code == "not_an_image" and _is_checkpoint(where):
            raise ValueError(
                f"{where!r} is a safetensors file that holds tensors only, no pipeline. Make the module that they "
                "belong to, and give it its weights: ray_zerocopy.load_checkpoint(module, path)."
            ) from error
        raise
    image = files.read(file)
    if not image.skeletons:
        raise ValueError(
            f"{where!r} is an image file without a Python pipeline: what wrote it ({_producer(file)}) saved tensors "
            "only. They can be read with the safetensors package."
        )
    metadata = file.metadata
    models = tuple(json.loads(metadata.get(_MODELS, "[]")))
    return Saved(image, where, file.digest, models, metadata.get(_CLASS, "object"), _producer(file))


def _producer(file: _engine.Image) -> str:
    producer: str = json.loads(file.index)["producer"]
    return producer


def _is_checkpoint(path: str) -> bool:
    try:
        _engine.Checkpoint.open(path)
    except (OSError, ValueError):
        return False
    return True
