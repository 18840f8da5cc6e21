"""The memory that one root of an image is thawed into: the host's, or a device's beside it.

It answers the calls in a skeleton (`ray_zerocopy.image.leaves`), so that pickle puts the root together in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from ray_zerocopy import _engine
from ray_zerocopy.image.arrays import array_in
from ray_zerocopy.image.image import Bytes, FrozenScripts, Image, Skeleton, entry
from ray_zerocopy.image.tensors import DLPACK_TYPES, contiguous_stride, tensor_in
from ray_zerocopy.image.torchscript import thaw_scripts, thaw_scripts_onto


class HostMemory:
    """The blocks of one root of an image, in the host's memory: in a View. It has all of `leaves`.

    Args:
        image: the image.
        bones: the root's skeleton.
    """

    def __init__(self, image: Image, bones: Skeleton) -> None:
        self.view: _engine.View | None = None
        """Of the root's segments; None as long as nothing is in it."""
        self._image = image
        self._content = image.content
        self._mapped = bones.segments
        self._places = {segment: place for place, segment in enumerate(self._mapped)}
        """Of each mapped segment its place in the View."""
        self._storages: list[torch.UntypedStorage | torch.Tensor | None] = [None] * image.content.block_count
        """Of each block met, the storage or the first tensor around it."""
        self._archive = bones.scripts
        self._scripts: dict[int, torch.jit.ScriptModule] | None = None

    def host(self, number: int) -> Bytes:
        """A block's bytes in the View, writable; they keep the View alive."""
        segment, offset, nbytes = self._content.block(number)
        if segment is None:
            return np.empty(0, np.uint8)
        return self._opened().part(self._place(segment), offset, nbytes)

    def _place(self, segment: int) -> int:
        place = self._places.get(segment)
        if place is None:
            raise ValueError(f"The image is damaged: a block lies in segment {segment}, which its root does not list.")
        return place

    def _opened(self) -> _engine.View:
        if self.view is None:
            self.view = _engine.View([self._image.segments[segment] for segment in self._mapped])
        return self.view

    def storage(self, number: int, nbytes: int) -> torch.UntypedStorage:
        """A block of that many bytes as a storage, the same one each time."""
        storage = self._storage(number)
        _engine.check_whole_array(storage.nbytes(), 1, (nbytes,))
        return storage

    def _storage(self, number: int) -> torch.UntypedStorage:
        entry(self._storages, number, "block")
        storage = self._storages[number]
        if isinstance(storage, torch.Tensor):
            storage = self._storages[number] = storage.untyped_storage()
        if storage is None:
            storage = self._storages[number] = self._new_storage(number)
        return storage

    def _new_storage(self, number: int) -> torch.UntypedStorage:
        host = self.host(number)
        return torch.from_numpy(host).untyped_storage() if host.nbytes else torch.UntypedStorage(0)

    def typed_storage(self, untyped: torch.UntypedStorage, dtype: torch.dtype) -> torch.storage.TypedStorage:
        """A `TypedStorage` around another storage."""
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)

    def meta_storage(self, nbytes: int) -> torch.UntypedStorage:
        """A storage without memory."""
        _engine.check_array(nbytes, 1, 0, (nbytes,), (1,), 1)
        return torch.UntypedStorage(nbytes, device="meta")

    def tensor(self, cls: type[torch.Tensor], block: int, *form: Any) -> torch.Tensor:
        """A tensor around a block."""
        return tensor_in(self._storage(block), cls, *form)

    def whole_tensor(
        self, cls: type[torch.Tensor], block: int, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool
    ) -> torch.Tensor:
        """A contiguous tensor around all of a block."""
        segment, offset, nbytes = self._content.block(block)
        if segment is not None and self._storages[block] is None and dtype in DLPACK_TYPES:  # five times as fast
            capsule = self._opened().tensor(self._place(segment), offset, nbytes, shape, *DLPACK_TYPES[dtype])
            tensor = from_dlpack(capsule)
            self._storages[block] = tensor
            tensor.__class__ = cls  # `torch.nn.Parameter`, say: it adds nothing but its class to a tensor
            tensor.requires_grad = requires_grad
            return tensor
        _engine.check_whole_array(nbytes, dtype.itemsize, shape)
        return self.tensor(cls, block, dtype, 0, shape, contiguous_stride(shape), requires_grad)

    def array(self, block: int, *form: Any) -> npt.NDArray[Any]:
        """An array in a block."""
        return array_in(self.host(block), *form)

    def external(self, number: int) -> Any:
        """One of the image's external objects."""
        return entry(self._image.externals, number, "external object")

    def program(self, cls: type[Any], number: int, constants: Mapping[str, torch.Tensor]) -> Any:
        """A compiled program, made of one of the image's packages."""
        return cls(self._image.package(number), constants)

    def script(self, number: int) -> torch.jit.ScriptModule:
        """One of the image's TorchScript modules."""
        if self._scripts is None:
            self._scripts = {} if self._archive is None else self._thawed_scripts(self._archive)
        if number not in self._scripts:
            raise ValueError(f"The image is damaged: TorchScript module {number} is in no archive of this root.")
        return self._scripts[number]

    def _thawed_scripts(self, archive: int) -> dict[int, torch.jit.ScriptModule]:
        return thaw_scripts(self._archived(archive), self._storage)

    def _archived(self, archive: int) -> FrozenScripts:
        return self._image.scripts(archive)


class DeviceMemory(HostMemory):
    """The blocks of one root of an image, tensors' on a device and the others in the host's memory.

    Blocks that overlap have one piece of the device's memory, which goes with the last of their tensors; no others
    share it, however they are packed in the image.

    Args:
        image: the image.
        bones: the root's skeleton.
        device: where tensors go.
    """

    def __init__(self, image: Image, bones: Skeleton, device: torch.device) -> None:
        super().__init__(image, bones._replace(segments=bones.host_segments))
        self._device = device
        self._pieces = _pieces(image.content, bones.tensor_blocks)

    def whole_tensor(
        self, cls: type[torch.Tensor], block: int, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool
    ) -> torch.Tensor:
        """A contiguous tensor around all of a block."""
        _engine.check_whole_array(self._content.block(block)[2], dtype.itemsize, shape)
        return self.tensor(cls, block, dtype, 0, shape, contiguous_stride(shape), requires_grad)

    def _new_storage(self, number: int) -> torch.UntypedStorage:
        segment, offset, _ = self._content.block(number)
        nbytes = self._shared(number).nbytes
        if segment is None or self._device.type == "meta":
            return torch.UntypedStorage(nbytes, device=self._device)
        piece = self._pieces.get(number)
        if piece is None:
            raise ValueError(f"The image is damaged: its root has a tensor in block {number}, which it does not list.")
        if piece.uploaded is None:
            all_of_it = _engine.borrow(self._image.segments[segment], piece.begin, piece.end - piece.begin)
            from_host = torch.from_numpy(all_of_it)
            piece.uploaded = torch.empty(len(from_host), dtype=torch.uint8, device=self._device).copy_(from_host)
        if nbytes == piece.uploaded.nbytes:
            return piece.uploaded.untyped_storage()
        # A storage of its own that begins inside the piece: blocks that overlap go on sharing memory.
        begin = offset - piece.begin
        return from_dlpack(piece.uploaded[begin : begin + nbytes]).untyped_storage()

    def _shared(self, number: int) -> Bytes:
        """A block's own pages, for reading only.

        Uploads to a device go from here rather than through the View: an upload pins what it reads, and the kernel
        copies private pages that are pinned.
        """
        segment, offset, nbytes = self._content.block(number)
        if segment is None:
            return np.empty(0, np.uint8)
        return _engine.borrow(self._image.segments[segment], offset, nbytes)

    def _thawed_scripts(self, archive: int) -> dict[int, torch.jit.ScriptModule]:
        return thaw_scripts_onto(self._device, self._archived(archive), self._borrowed_storage, self._storage)

    def _borrowed_storage(self, number: int) -> torch.UntypedStorage:
        shared = self._shared(number)
        return torch.from_numpy(shared).untyped_storage() if shared.nbytes else torch.UntypedStorage(0)


@dataclass
class _Piece:
    """What blocks that overlap span: bytes of a segment, and where they are on the device once they are there."""

    begin: int
    end: int
    uploaded: torch.Tensor | None = None


def _pieces(content: _engine.Image, numbers: Sequence[int]) -> dict[int, _Piece]:
    """The piece of each of the blocks with these numbers that is not empty, by its number."""
    pieces: dict[int, _Piece] = {}
    last: tuple[int, _Piece] | None = None
    blocks = [(*content.block(number), number) for number in numbers]
    for segment, offset, nbytes, number in sorted((segment, *rest) for segment, *rest in blocks if segment is not None):
        if last is None or last[0] != segment or offset >= last[1].end:
            last = segment, _Piece(offset, offset)
        piece = pieces[number] = last[1]
        piece.end = max(piece.end, offset + nbytes)
    return pieces
