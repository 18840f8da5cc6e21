"""Wrappers by name: what they hand to the keeper, and what they find there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray import cloudpickle

from ray_zerocopy.image import Image
from ray_zerocopy.transport import keeper, store
from ray_zerocopy.transport.keeper import Kept, Lifetime, ModelName
from ray_zerocopy.transport.saved import FileSource


class Naming(NamedTuple):
    """How a wrapper is to be named."""

    name: ModelName
    lifetime: Lifetime | None
    replace: bool


class Found(NamedTuple):
    """What a name stands for at present."""

    wrapper_class: type[Any]
    settings: Any
    images: tuple[Kept, ...]


def checked(name: str | None, lifetime: Lifetime | None, replace: bool) -> Naming | None:
    """The arguments of a wrapper that concern its name; None: it is to have none.

    Raises:
        TypeError: the name is not a string.
        ValueError: the name is empty, or in use and not to be replaced; the lifetime is none of Ray's; or one of the
            others is given without a name.
    """
    if lifetime not in (None, "detached"):
        raise ValueError(f"Expected the lifetime 'detached' or None, got {lifetime!r}.")
    if name is None:
        if lifetime is not None or replace:
            raise ValueError(
                "lifetime= and replace= are for a model that has a name, by which other programs find it: "
                "give name= as well."
            )
        return None
    if not isinstance(name, str):
        raise TypeError(f"Expected a string for a name, got {name!r}.")
    if not name:
        raise ValueError("Expected a name, got an empty string.")
    here = ModelName.here(name)
    if not replace and keeper.is_taken(here):  # said before there is any work done
        raise keeper.taken(here)
    return Naming(here, lifetime, replace)


def publish(
    naming: Naming, wrapper_class: type[Any], settings: Any, images: Sequence[Image], file: FileSource | None = None
) -> None:
    """Have the keeper own a wrapper's images.

    Args:
        naming: from `checked`.
        wrapper_class: the wrapper's.
        settings: what it needs beside the images to make a wrapper again.
        images: what it publishes.
        file: which holds the one image, if any.

    Raises:
        ValueError: the name is in use and not to be replaced; or the pipeline, which is to outlive this process, holds
            references to objects that will not.
    """
    externals = [external for image in images for external in image.externals]
    if naming.lifetime == "detached" and any(isinstance(external, ray.ObjectRef) for external in externals):
        raise ValueError(
            f"The pipeline of the model {naming.name} holds a ray.ObjectRef. What that leads to is lost when the "
            "process that put it ends, so that the model could not outlive it: put the object itself (ray.get) into "
            "the pipeline."
        )
    head = cloudpickle.dumps((wrapper_class, settings))
    kind, source = wrapper_class.__name__, None if file is None else keeper.Source(*file)
    store.publish_by_name(naming.name, kind, naming.lifetime, naming.replace, head, list(images), source)


def head_of(name: ModelName) -> tuple[type[Any], Any]:
    """The class that a model was wrapped with, and its settings: `Found` without the images, in less time than `find`.

    Raises:
        ValueError, ModelLostError: as `find`.
    """
    wrapper_class, settings = cloudpickle.loads(keeper.find(name, with_images=False).head)
    return wrapper_class, settings


def find(name: ModelName) -> Found:
    """What a name stands for at present.

    Raises:
        ValueError: there is no model of that name; the message lists those that there are.
        ModelLostError: the same, after the keeper was restarted and lost all that it had.
    """
    version = keeper.find(name)
    wrapper_class, settings = cloudpickle.loads(version.head)
    return Found(wrapper_class, settings, version.images)
