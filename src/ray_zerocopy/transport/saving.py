"""Pipelines into files: saved once, loaded by any process of a machine (`ray_zerocopy.transport.saved`)."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from ray_zerocopy.image import paths
from ray_zerocopy.image.freezing import freeze_roots
from ray_zerocopy.image.models import (
    PublishedModels,
    check_holds_model,
    check_is_object,
    paths_of,
    pipeline_roots,
    take_apart,
)
from ray_zerocopy.image.names import tensor_names
from ray_zerocopy.image.references import is_ray_reference
from ray_zerocopy.image.writing import write
from ray_zerocopy.transport.progress import shown
from ray_zerocopy.transport.saved import metadata_of


def save(pipeline: Any, path: str | os.PathLike[str], *, progress: bool = False) -> None:
    """Save a pipeline to a file, from which any number of processes load it and share its weights.

    The file is a safetensors file too: a module's tensors have the names that `state_dict` gives them, after the path
    of the module in the pipeline (`encoder.layer.0.weight`; a pipeline that is itself a module has no such path).
    Tensors whose dtype safetensors lacks have no name; they are saved like the others.

    There is never a half-written file at `path`: the file appears there when it is complete, in place of one that
    exists. Who has loaded that one goes on with it.

    Args:
        pipeline: any picklable object holding models, tensors or numpy arrays; it is not changed.
        path: where to save it. A symbolic link is followed; a file that is replaced hands on its permissions.
        progress: whether to show how far it has come: with tqdm where that is installed, else as messages of the
            logger `ray_zerocopy`.

    Raises:
        TypeError: something in the pipeline cannot be pickled, or is a wrapper or a reference of Ray's, which mean
            nothing outside of their cluster (the message gives the path to it); it holds neither a model nor a tensor
            nor a numpy array, or is a class or a path.
        OSError: the file cannot be written, or the path is that of a directory, a pipe or a device. Then there is
            none, or the one that there was.
    """
    check_is_object(pipeline)
    destination = _destination(path)
    models = take_apart(pipeline).models
    places = paths_of(models, pipeline)
    frozen = freeze_roots(pipeline_roots(pipeline, places, models), external=_is_of_cluster)
    for part in frozen.externals:
        _refuse(part, paths.find(pipeline, [part], "pipeline").get(id(part), "The pipeline"))
    if not frozen.blocks:
        check_holds_model(pipeline, models, alternative=", a tensor or a numpy array")
    names, metadata = tensor_names(models, places), metadata_of(pipeline, places)
    with shown(f"Saving {os.fsdecode(path)}", progress) as told:
        write(frozen, destination, names, metadata, told)


def _is_of_cluster(cls: type) -> bool:
    """Whether objects of this class mean nothing outside of their cluster."""
    return is_ray_reference(cls) or issubclass(cls, PublishedModels)


def _refuse(part: Any, place: str) -> NoReturn:
    if isinstance(part, PublishedModels):
        raise TypeError(
            f"{place} stands for models in its cluster's object store ({type(part).__name__}). Save what was wrapped "
            "instead; an ActorWrapper gives that back: wrapper.load()."
        )
    raise TypeError(
        f"{place} is a reference of Ray's ({type(part).__name__}), which means nothing outside of its cluster. Put "
        "what it leads to into the pipeline (ray.get), or save the pipeline without it."
    )


def _destination(path: str | os.PathLike[str]) -> str:
    """The absolute path of the file that is to be written: where a symbolic link leads, as for `open(path, "wb")`.

    Raises:
        IsADirectoryError: the path ends with a separator.
    """
    text = os.fsdecode(path)
    if text.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), text)
    return os.path.realpath(text)
