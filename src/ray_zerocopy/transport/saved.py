"""Files with a pipeline in them, loaded by any process, in one copy for all of a machine. Imports nothing of Ray."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ray_zerocopy import _engine
from ray_zerocopy.image import Image, Thawed, thaw_in_view
from ray_zerocopy.image.devices import Device, present
from ray_zerocopy.image.held import Held
from ray_zerocopy.monitoring import loads, metrics
from ray_zerocopy.transport import unshared

_CLASS = "ray_zerocopy.pipeline"
_MODELS = "ray_zerocopy.models"


def metadata_of(pipeline: Any, models: Sequence[str]) -> dict[str, str]:
    """What the header of a pipeline's file says for `opened`.

    Args:
        pipeline: whose class is noted.
        models: where each of its outermost models is within it.
    """
    return {_CLASS: type(pipeline).__name__, _MODELS: json.dumps(list(models))}


def load(path: str | os.PathLike[str], device: Device | None = None) -> Any:
    """Load a pipeline from a file that `save` wrote. Ray is neither needed nor started.

    The pipeline's weights are the file's pages in the page cache, which all processes of the machine that load the file
    share, until they are written to: what is written no other process sees, nor does the file. Each load gives an
    independent pipeline. Where the pages cannot be shared, the weights are a private copy, and the logger
    `ray_zerocopy` says so once, and why. The file may be replaced (by `save`, or by renaming another one), or removed,
    while a pipeline is loaded from it; it must not be changed in place, nor shortened.

    A file can run any code when it is loaded, as a pickle can: load only files of those whose programs you would run.

    Args:
        path: of the file.
        device: where the pipeline's tensors go; None: the CPU.

    Returns:
        The pipeline, models in eval mode.

    Raises:
        FileNotFoundError, OSError: there is no such file, or it cannot be opened.
        ValueError: it is not a file that `save` wrote, or is truncated or damaged, which is found as far as the file's
            structure is concerned (`python -m ray_zerocopy verify` compares the weights as well). Or `device` is not a
            device.
        RuntimeError: this process lacks the device.
        Exception: what is raised when an object of the pipeline is unpickled: `ModuleNotFoundError` where its module
            is missing, say. A note says which versions of Python and torch the file was written with.
    """
    return opened(path).load(0, present(device)).root


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

    @property
    def held(self) -> Held:
        """What it holds; the models' classes are not known before it is loaded."""
        return Held(self.class_name, tuple((path, None) for path in self.models), self.image.nbytes)

    def load(self, skeleton: int, device: torch.device | str | None) -> Thawed:
        """One of the image's roots, prefaulted in the background.

        Raises:
            Exception: as when any pickle is loaded; a note says what wrote the file.
        """
        began = time.perf_counter()
        try:
            thawed = thaw_in_view(self.image, device, skeleton=skeleton)
        except Exception as error:
            error.add_note(f"While the file {self.path!r} was loaded, which was written by {self.producer}.")
            raise
        thawed.prefault()
        loads.note(thawed.view, loads.Load(f"pipeline ({self.class_name})", "file", self.path))
        metrics.note_seconds("file", time.perf_counter() - began)
        if thawed.view is not None:
            unshared.say(thawed.view.copied_bytes, thawed.view.private_copy_reason)
        return thawed


def opened(path: str | os.PathLike[str]) -> Saved:
    """Opens a file that `save` wrote, without unpickling anything.

    Raises:
        FileNotFoundError, OSError, ValueError: as `load`.
    """
    where = os.path.abspath(os.fsdecode(path))
    try:
        file = _engine.Image.open(where)
    except _engine.ImageError as error:
        if error.code == "not_an_image" and _is_checkpoint(where):
            raise ValueError(
                f"{where!r} is a checkpoint: it holds tensors only, no pipeline. Make the module that they "
                "belong to, and give it its weights: ray_zerocopy.load_checkpoint(module, path)."
            ) from error
        raise
    if not file.root_count:
        raise ValueError(
            f"{where!r} is an image file without a Python pipeline: what wrote it ({file.producer}) saved tensors "
            "only. They can be read with the safetensors package."
        )
    for number in range(file.blob_count):
        file.blob(number)  # which a load would refuse, in a worker perhaps, if it were damaged
    metadata = file.metadata
    return Saved(
        Image.of_file(file), where, file.digest, _models(metadata, where), metadata.get(_CLASS, "object"), file.producer
    )


def _models(metadata: dict[str, str], path: str) -> tuple[str, ...]:
    # The header has no digest: what is in it may be anything.
    text = metadata.get(_MODELS, "[]")
    try:
        models = json.loads(text)
    except (ValueError, RecursionError):
        models = None
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise ValueError(f"{path!r} is damaged: its header has {_MODELS!r}: {text[:80]!r}, which is no list of names.")
    return tuple(models)


def _is_checkpoint(path: str) -> bool:
    try:
        _engine.Checkpoint.open(path)
    except (OSError, ValueError):
        return False
    return True
