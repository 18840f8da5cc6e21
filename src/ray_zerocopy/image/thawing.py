"""`thaw`: a pipeline again, its tensors and arrays lying in a private, copy-on-write window on the image's segments."""

from __future__ import annotations

import gc
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.dlpack

from ray_zerocopy import _engine
from ray_zerocopy.image.arrays import array_in
from ray_zerocopy.image.image import Bytes, Image
from ray_zerocopy.image.torchscript import thaw_scripts


class Thawed(NamedTuple):
    """A thawed root, and the View that its weights lie in (None where nothing needed one)."""

    root: Any
    view: _engine.View | None


def thaw(image: Image, device: torch.device | str | None = None, *, skeleton: int = 0) -> Any:
    """Make a pipeline of an image. Each call gives an independent one: what is written to it nobody else sees.

    Args:
        image: from `freeze`, or from an object store.
        device: where the tensors go, all of them, as with `torch.load(map_location=device)`; None: the CPU, where they
            lie in the image's own pages until they are written to.
        skeleton: which of the image's roots.

    Returns:
        The pipeline, modules in eval mode. Its tensors and arrays keep the image's memory alive.
    """
    return thaw_in_view(image, device, skeleton=skeleton).root


def thaw_in_view(image: Image, device: torch.device | str | None = None, *, skeleton: int = 0) -> Thawed:
    """As `thaw`, with the View, for who wants to prefault or `reset` it or to see what diverged."""
    target = torch.device("cpu" if device is None else device)
    memory = _Memory(image, target)
    bones = image.skeletons[skeleton]
    unpickler = _Unpickler(bones.pickled, [memory.host(block).data for block in bones.buffers], memory, image.externals)
    with _no_collection():
        root = unpickler.load()
        training, recurrent, scripts = unpickler.load()
    for module, attributes in scripts:
        vars(module).update(attributes)
    for module in training:
        module.eval()
    if target.type != "cpu":
        for module in recurrent:
            module.flatten_parameters()  # cuDNN wants a recurrent module's weights in one piece
    return Thawed(root, memory.view)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The many objects that an unpickler makes are all in use; a collection among them takes longer than a load."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Memory:
    """The image's blocks, as host memory or as storages on the target device."""

    def __init__(self, image: Image, device: torch.device) -> None:
        self._image = image
        self._device = device
        self._storages: list[torch.UntypedStorage | None] = [None] * len(image.blocks)
        self._on_device: dict[int, torch.Tensor] = {}
        self.view: _engine.View | None = None

    def host(self, number: int) -> Bytes:
        """A block's bytes in the View, writable; they keep the View alive."""
        block = self._image.blocks[number]
        if block.nbytes == 0:
            return np.empty(0, np.uint8)
        if self.view is None:
            self.view = _engine.View(self._image.segments)
        segment = self.view.segment(block.segment)
        if block.nbytes == segment.nbytes:
            return segment
        return segment[block.offset : block.offset + block.nbytes]

    def storage(self, number: int) -> torch.UntypedStorage:
        """A block as a storage on the target device, the same one each time."""
        storage = self._storages[number]
        if storage is None:
            storage = self._storages[number] = self._new_storage(number)
        return storage

    def scripts(self) -> list[torch.jit.ScriptModule]:
        """All TorchScript modules of the image."""
        if self._image.scripts is None:
            return []
        if self._device.type == "meta":
            raise ValueError("TorchScript modules cannot be loaded on the meta device.")
        return thaw_scripts(self._image.scripts, self._device, self._host_storage)

    def _host_storage(self, number: int) -> torch.UntypedStorage:
        if self._device.type == "cpu":
            return self.storage(number)
        segment, offset, nbytes = self._image.blocks[number]
        if nbytes == 0:
            return torch.UntypedStorage(0)
        return torch.from_numpy(self._shared(segment)[offset : offset + nbytes]).untyped_storage()

    def _shared(self, segment: int) -> Bytes:
        """A segment's own pages, for reading only.

        Uploads to a device go from here rather than through the View: an upload pins what it reads, and the kernel
        copies private pages that are pinned.
        """
        return _engine.borrow(self._image.segments[segment])

    def _new_storage(self, number: int) -> torch.UntypedStorage:
        segment, offset, nbytes = self._image.blocks[number]
        if nbytes == 0 or self._device.type == "meta":
            return torch.UntypedStorage(nbytes, device=self._device)
        if self._device.type == "cpu":
            return torch.from_numpy(self.host(number)).untyped_storage()
        uploaded = self._on_device.get(segment)
        if uploaded is None:
            uploaded = torch.from_numpy(self._shared(segment)).to(self._device)
            self._on_device[segment] = uploaded
        if nbytes == uploaded.nbytes:
            return uploaded.untyped_storage()
        # A storage of its own that begins inside the segment: blocks that overlap go on sharing memory.
        return torch.utils.dlpack.from_dlpack(uploaded[offset : offset + nbytes]).untyped_storage()


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, buffers: list[memoryview], memory: _Memory, externals: tuple[Any, ...]) -> None:
        super().__init__(io.BytesIO(pickled), buffers=buffers)
        self._memory = memory
        self._externals = externals
        self._arrays: dict[int, npt.NDArray[Any]] = {}
        self._scripts: list[torch.jit.ScriptModule] | None = None

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, int):
            return self._memory.storage(pid)
        match pid:
            case "typed", storage, dtype:
                return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
            case "array", number, block, *how:
                array = self._arrays.get(number)
                if array is None:
                    array = self._arrays[number] = array_in(self._memory.host(block), *how)
                return array
            case "meta", nbytes:
                return torch.UntypedStorage(nbytes, device="meta")
            case "external", number:
                return self._externals[number]
            case "script", number:
                if self._scripts is None:
                    self._scripts = self._memory.scripts()
                return self._scripts[number]
        raise pickle.UnpicklingError(f"Expected a skeleton's persistent id, got {pid!r}.")
