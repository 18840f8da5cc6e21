"""`thaw`: a pipeline again, its tensors and arrays lying in a private, copy-on-write window on the image's segments."""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from ray_zerocopy import _engine
from ray_zerocopy.image import leaves
from ray_zerocopy.image.arrays import array_in
from ray_zerocopy.image.collection import no_collection
from ray_zerocopy.image.image import Bytes, Image
from ray_zerocopy.image.tensors import DLPACK_TYPES, contiguous_stride, tensor_in
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
    unpickler = _Unpickler(bones.pickled, [memory.host(block).data for block in bones.buffers], memory)
    with no_collection():
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


class _Memory:
    """The image's blocks, as host memory or as what they are on the target device. It has all of `leaves`."""

    def __init__(self, image: Image, device: torch.device) -> None:
        self._image = image
        self._device = device
        self._is_cpu = device.type == "cpu"
        self._storages: list[torch.UntypedStorage | torch.Tensor | None] = [None] * len(image.blocks)
        """Of each block met, the storage or the first tensor around it."""
        self._windows: list[Bytes | None] = [None] * len(image.segments)
        self._on_device: dict[int, torch.Tensor] = {}
        self._scripts: list[torch.jit.ScriptModule] | None = None
        self.view: _engine.View | None = None

    def host(self, number: int) -> Bytes:
        """A block's bytes in the View, writable; they keep the View alive."""
        segment, offset, nbytes = self._image.blocks[number]
        return self._window(segment)[offset : offset + nbytes] if nbytes else np.empty(0, np.uint8)

    def _window(self, segment: int) -> Bytes:
        """A segment's bytes in the View."""
        window = self._windows[segment]
        if window is None:
            window = self._windows[segment] = self._opened().segment(segment)
        return window

    def _opened(self) -> _engine.View:
        if self.view is None:
            self.view = _engine.View(self._image.segments)
        return self.view

    def storage(self, number: int) -> torch.UntypedStorage:
        """A block as a storage on the target device, the same one each time."""
        storage = self._storages[number]
        if isinstance(storage, torch.Tensor):
            storage = self._storages[number] = storage.untyped_storage()
        if storage is None:
            storage = self._storages[number] = self._new_storage(number)
        return storage

    def typed_storage(self, untyped: torch.UntypedStorage, dtype: torch.dtype) -> torch.storage.TypedStorage:
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)

    def meta_storage(self, nbytes: int) -> torch.UntypedStorage:
        return torch.UntypedStorage(nbytes, device="meta")

    def tensor(self, cls: type[torch.Tensor], block: int, *form: Any) -> torch.Tensor:
        return tensor_in(self.storage(block), cls, *form)

    def whole_tensor(
        self, cls: type[torch.Tensor], block: int, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool
    ) -> torch.Tensor:
        if self._is_cpu and self._storages[block] is None and dtype in DLPACK_TYPES:  # five times as fast
            segment, offset, _ = self._image.blocks[block]
            tensor = from_dlpack(self._opened().tensor(segment, offset, shape, *DLPACK_TYPES[dtype]))
            self._storages[block] = tensor
            tensor.__class__ = cls  # `torch.nn.Parameter`, say: it adds nothing but its class to a tensor
            tensor.requires_grad = requires_grad
            return tensor
        return self.tensor(cls, block, dtype, 0, shape, contiguous_stride(shape), requires_grad)

    def array(self, block: int, *form: Any) -> npt.NDArray[Any]:
        return array_in(self.host(block), *form)

    def external(self, number: int) -> Any:
        return self._image.externals[number]

    def script(self, number: int) -> torch.jit.ScriptModule:
        if self._scripts is None:
            self._scripts = self._all_scripts()
        return self._scripts[number]

    def _all_scripts(self) -> list[torch.jit.ScriptModule]:
        if self._image.scripts is None:
            return []
        if self._device.type == "meta":
            raise ValueError("TorchScript modules cannot be loaded on the meta device.")
        return thaw_scripts(self._image.scripts, self._device, self._host_storage)

    def _host_storage(self, number: int) -> torch.UntypedStorage:
        if self._is_cpu:
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
        if self._is_cpu:
            return torch.from_numpy(self.host(number)).untyped_storage()
        uploaded = self._on_device.get(segment)
        if uploaded is None:
            uploaded = torch.from_numpy(self._shared(segment)).to(self._device)
            self._on_device[segment] = uploaded
        if nbytes == uploaded.nbytes:
            return uploaded.untyped_storage()
        # A storage of its own that begins inside the segment: blocks that overlap go on sharing memory.
        return from_dlpack(uploaded[offset : offset + nbytes]).untyped_storage()


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, buffers: list[memoryview], memory: _Memory) -> None:
        super().__init__(io.BytesIO(pickled), buffers=buffers)
        self._memory = memory

    def find_class(self, module: str, name: str) -> Any:
        return getattr(self._memory, name) if module == leaves.__name__ else super().find_class(module, name)
