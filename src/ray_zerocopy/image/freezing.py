"""`freeze`: one walk over the whole object graph, through pickle, that takes the weights out without copying them."""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from ray import cloudpickle
from torch import nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrize

from ray_zerocopy import _engine
from ray_zerocopy.compiled import CompiledProgram
from ray_zerocopy.image import leaves, paths
from ray_zerocopy.image.arrays import is_shareable, reduce_array
from ray_zerocopy.image.blocks import BlockTable, Met
from ray_zerocopy.image.collection import no_collection
from ray_zerocopy.image.compiled_functions import check_not_compiled, is_optimized_module, reduce_optimized_module
from ray_zerocopy.image.exported import UNREADABLE, reduce_exported_program
from ray_zerocopy.image.image import FrozenScripts, Image
from ray_zerocopy.image.modules import ModuleReducer
from ray_zerocopy.image.names import constants_of, placed
from ray_zerocopy.image.parametrized import reduce_parametrized
from ray_zerocopy.image.parts import ImageParts
from ray_zerocopy.image.tensors import STORAGES, StorageCollector
from ray_zerocopy.image.torchscript import ScriptArchives, python_attributes

_Reducer = Callable[[Any], Any]

External = Callable[[type], bool]
"""Says of a class whether its instances stay outside the image, in `Image.externals`."""


def freeze(pipeline: Any, *, external: External | None = None, name: str = "pipeline") -> Image:
    """Freeze a pipeline: its object graph is pickled, its bulk bytes are only pointed at.

    Nothing of the pipeline changes, and no weights are copied, except those on another device, which are brought to
    the host. Modules load in eval mode, whatever mode they are in here.

    Args:
        pipeline: any object that cloudpickle can take; modules with parametrizations are welcome too.
        external: what is not to be walked into; those objects end up in `Image.externals`, each once.
        name: what to call the pipeline in errors.

    Raises:
        TypeError: something in it cannot be pickled; the message gives the path to it within the pipeline.
    """
    return freeze_each({name: pipeline}, external=external)


def freeze_each(
    roots: Mapping[str, Any],
    *,
    external: External | None = None,
    share: Sequence[Any] | None = None,
    join: bool = False,
) -> Image:
    """Freeze several objects into one image with a skeleton for each, to be thawed one by one; they share segments.

    Args:
        roots: the objects, by what to call them in errors; the image's skeletons have their order.
        external: as for `freeze`.
        share: the parts of the roots whose weights are to be shared; those of the rest are copied into the image and
            private to whoever loads it. None: all is shared.
        join: as for `Frozen.parts`, where all is shared.

    Raises:
        TypeError: as `freeze`.
    """
    with no_collection():
        shared = None
        if share is not None:
            parts = _Walk(external)
            parts.frozen_scripts([parts.root(part, "pipeline") for part in share])
            shared = parts.blocks.keys()
        return _frozen(roots, external).image(shared, join=join and share is None)


def freeze_roots(roots: Mapping[str, Any], *, external: External | None = None) -> Frozen:
    """As `freeze_each`, for whoever wants another form than an `Image`."""
    with no_collection():
        return _frozen(roots, external)


def _frozen(roots: Mapping[str, Any], external: External | None) -> Frozen:
    walk = _Walk(external)
    frozen = tuple(walk.root(root, name) for name, root in roots.items())
    archives = walk.frozen_scripts(frozen)
    return Frozen(tuple(roots), frozen, archives, walk.blocks, walk.storages, walk.externals, walk.programs)


class FrozenRoot(NamedTuple):
    """A root's skeleton, and what the walk over it met: the blocks, and TorchScript modules by their numbers."""

    pickled: bytes
    buffers: tuple[int, ...]
    met: Met
    scripts: frozenset[int]


class Frozen(NamedTuple):
    """Objects that were frozen, before their blocks are laid out. It borrows their memory."""

    names: tuple[str, ...]
    roots: tuple[FrozenRoot, ...]
    """In the order of `names`."""
    archives: dict[frozenset[int], FrozenScripts]
    """By the numbers of the TorchScript modules in them: a root's is that of its `scripts`."""
    blocks: BlockTable
    storages: StorageCollector
    externals: list[Any]
    programs: list[CompiledProgram]

    def archive(self, root: FrozenRoot) -> int | None:
        """The place in `archives` of a root's archive; None without TorchScript modules."""
        return list(self.archives).index(root.scripts) if root.scripts else None

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """Of the image: the archives', the roots', and the programs', in this order."""
        return (
            *(scripts.archive for scripts in self.archives.values()),
            *(root.pickled for root in self.roots),
            *(package_of(program) for program in self.programs),
        )

    def writer(self) -> _engine.ImageWriter:
        """What writes the image, with all that is in it but names and metadata."""
        writer = _engine.ImageWriter(producer())
        self.blocks.add_to(writer)
        blobs = iter([writer.add_blob(blob) for blob in self.blobs])
        for scripts in self.archives.values():
            modules = [(number, place, list(path)) for number, (place, path) in scripts.modules.items()]
            writer.add_archive(next(blobs), scripts.blocks, scripts.sizes, scripts.has_storages, modules)
        for name, root in zip(self.names, self.roots, strict=True):
            tensor_blocks, host_blocks = sorted(root.met.tensors), sorted(root.met.host)
            text = name.encode(errors="backslashreplace").decode()  # a path may have half a surrogate pair in it
            writer.add_root(text, next(blobs), root.buffers, self.archive(root), tensor_blocks, host_blocks)
        for program in self.programs:
            constants = {
                name: form
                for name, tensor in constants_of(program).items()
                if (form := placed(tensor, self.blocks, self.storages)) is not None
            }
            writer.add_program(next(blobs), constants)
        return writer

    def parts(self, *, apart: Sequence[int] = (), join: bool = False) -> ImageParts:
        """The image in parts, all of them shared.

        Args:
            apart: blocks with segments of their own.
            join: whether blocks that follow each other in memory without a gap, as those of a checkpoint's file do,
                lie in one segment: the object store takes a few large segments much faster than many.
        """
        index, segments = self.writer().parts(join, apart)
        return ImageParts(index, self.blobs, tuple(segment.data for segment in segments), tuple(self.externals))

    def image(self, shared: AbstractSet[tuple[int, int]] | None = None, *, join: bool = False) -> Image:
        """The image.

        Args:
            shared: limits sharing: of a segment with no block of one of these addresses and sizes each process gets a
                copy (`bytes`). None: share all.
            join: as for `parts`.
        """
        if shared is None:
            return Image.of(self.parts(join=join))
        apart = self.blocks.among(shared)
        image = Image.of(self.parts(apart=apart, join=join))
        to_share = {image.content.block(number)[0] for number in apart}
        segments = (s if number in to_share else bytes(s) for number, s in enumerate(image.segments))
        return replace(image, segments=tuple(segments))


class _Walk:
    """What the walks over the roots of one image have in common."""

    def __init__(self, external: External | None) -> None:
        self.blocks = BlockTable()
        self.storages = StorageCollector(self.blocks)
        self.scripts = ScriptArchives(self.storages.block)
        self.is_external = external
        self.externals: list[Any] = []
        self._external_numbers: dict[int, int] = {}
        self.programs: list[CompiledProgram] = []
        self._program_numbers: dict[int, int] = {}

    def external(self, obj: Any) -> tuple[Any, ...]:
        number = self._external_numbers.setdefault(id(obj), len(self.externals))
        if number == len(self.externals):
            self.externals.append(obj)
        return leaves.external, (number,)

    def program(self, program: CompiledProgram) -> tuple[Any, ...]:
        number = self._program_numbers.setdefault(id(program), len(self.programs))
        if number == len(self.programs):
            self.programs.append(program)
        cls, (_, constants) = program.__reduce__()
        return leaves.program, (cls, number, constants)

    def root(self, root: Any, name: str) -> FrozenRoot:
        try:
            return self._root(root)
        except Exception as error:
            # Any exception: the reducers of the user's own classes may raise whatever they like.
            path, cause = paths.deepest_failing(root, name, self._failure)
            raise TypeError(
                f"{path} cannot be pickled: {cause or error}. A pipeline must be picklable to reach other processes; "
                "make this part anew in the worker, or leave it out in its owner's __getstate__."
            ) from error

    def _root(self, root: Any) -> FrozenRoot:
        modules = ModuleReducer()
        frozen = _Pickler(self, modules).frozen(root)
        return _Pickler(self, ModuleReducer(leave_out=False)).frozen(root) if modules.left_out_shared else frozen

    def frozen_scripts(self, roots: Sequence[FrozenRoot]) -> dict[frozenset[int], FrozenScripts]:
        """The archives of the TorchScript modules that each root met; their blocks are added to those that it met."""
        archives: dict[frozenset[int], FrozenScripts] = {}
        for root in roots:
            if root.scripts:
                if root.scripts not in archives:
                    self.blocks.begin()
                    archives[root.scripts] = self._archive(root.scripts)
                root.met.tensors.update(archives[root.scripts].blocks)
        return archives

    def _archive(self, scripts: frozenset[int]) -> FrozenScripts:
        try:
            return self.scripts.archive(scripts)
        except (RuntimeError, ValueError) as error:
            raise TypeError(f"A TorchScript module of the pipeline cannot be saved: {str(error).strip()}") from error

    def _failure(self, obj: Any) -> Exception | None:
        try:
            _Walk(self.is_external)._root(obj)
        except Exception as error:
            return error
        return None


class _Pickler(cloudpickle.CloudPickler):
    """Pickles one root of an image.

    Args:
        walk: what it has in common with others.
        modules: reduces its modules.
    """

    def __init__(self, walk: _Walk, modules: ModuleReducer) -> None:
        self._stream = io.BytesIO()
        self._buffers = _Buffers(walk.blocks)
        super().__init__(self._stream, protocol=5, buffer_callback=self._buffers.take)  # type: ignore[no-untyped-call]
        self._walk = walk
        self._module_reducer = modules
        self._modules: list[nn.Module] = []
        self._scripts: set[int] = set()
        self._reducers: dict[type, _Reducer] = {}

    def frozen(self, root: Any) -> FrozenRoot:
        met = self._walk.blocks.begin()
        self.dump(root)  # type: ignore[no-untyped-call]
        training = _training(self._modules)
        recurrent = [module for module in self._modules if isinstance(module, nn.RNNBase)]
        scripts = {id(m): (m, python_attributes(m)) for m in self._modules if isinstance(m, torch.jit.ScriptModule)}
        self.dump((training, recurrent, list(scripts.values())))  # type: ignore[no-untyped-call]
        self._reducers.clear()  # which refer to this pickler, and it to all it met: that is not left to the collector
        return FrozenRoot(self._stream.getvalue(), tuple(self._buffers.numbers), met, frozenset(self._scripts))

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        reducer = self._reducers.get(cls)
        if reducer is None:
            reducer = self._reducers[cls] = self._reducer(cls)
        return reducer(obj)

    def _reducer(self, cls: type) -> _Reducer:
        """How the objects of a class are reduced."""
        if self._walk.is_external is not None and self._walk.is_external(cls):
            return self._walk.external
        if issubclass(cls, STORAGES):
            return self._walk.storages.reduce
        if issubclass(cls, torch.Tensor):
            return self._tensor
        if issubclass(cls, np.ndarray) and is_shareable(cls):
            return self._array
        if issubclass(cls, torch.jit.ScriptModule):
            return self._script
        if issubclass(cls, nn.Module):
            return self._module
        if cls is FunctionType:
            return self._function
        if issubclass(cls, OrderedDict):
            return self._ordered_dict
        if issubclass(cls, ExportedProgram):
            return reduce_exported_program
        if cls is CompiledProgram:
            return self._walk.program
        if cls.__name__ == UNREADABLE:
            return _refuse_unreadable
        if cls.__name__ == "InferenceSession" and cls.__module__.startswith("onnxruntime."):
            return _refuse_session
        return self._by_default

    def _by_default(self, obj: Any) -> Any:
        return super().reducer_override(obj)  # type: ignore[no-untyped-call]

    def _tensor(self, tensor: torch.Tensor) -> Any:
        reduced = self._walk.storages.reduce_tensor(tensor)
        return self._by_default(tensor) if reduced is None else reduced

    def _array(self, array: Any) -> Any:
        reduced = reduce_array(array, self._walk.blocks)
        return self._by_default(array) if reduced is None else reduced

    def _script(self, module: torch.jit.ScriptModule) -> tuple[Any, ...]:
        self._modules.append(module)
        number = self._walk.scripts.add(module)
        self._scripts.add(number)
        return leaves.script, (number,)

    def _function(self, function: FunctionType) -> Any:
        check_not_compiled(function)
        return self._by_default(function)

    def _module(self, module: nn.Module) -> Any:
        check_not_compiled(module)
        self._modules.append(module)
        if is_optimized_module(type(module)):
            return reduce_optimized_module(module)
        reduced = self._module_reducer.reduce(module)
        if reduced is not None:
            return reduced
        if parametrize.is_parametrized(module):
            return reduce_parametrized(module)
        return self._by_default(module)

    def _ordered_dict(self, dictionary: OrderedDict[Any, Any]) -> Any:
        self._module_reducer.meet(dictionary)
        return self._by_default(dictionary)


class _Buffers:
    """The blocks of the `pickle.PickleBuffer`s that a pickler meets."""

    def __init__(self, blocks: BlockTable) -> None:
        self.numbers: list[int] = []
        self._blocks = blocks

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the pickler is to keep the bytes in its stream."""
        try:
            flat = np.frombuffer(buffer.raw(), np.uint8)
        except (BufferError, ValueError):  # not contiguous, or empty: numpy has no view of it
            return True
        address = flat.__array_interface__["data"][0]
        self.numbers.append(self._blocks.add(address, flat.nbytes, buffer, host=True))
        return False


@cache
def producer() -> str:
    """What writes the images that are written here."""
    try:
        package = version("ray-zerocopy")
    except PackageNotFoundError:  # the sources alone
        package = "of an unknown version"
    python = ".".join(map(str, sys.version_info[:2]))
    return f"ray_zerocopy {package}, torch {torch.__version__}, Python {python}"


def package_of(program: CompiledProgram) -> bytes:
    """What the library of a compiled program was loaded from."""
    return program.__reduce__()[1][0]


def _refuse_unreadable(obj: Any) -> Any:
    raise TypeError(
        f"an {UNREADABLE} tells nobody what it was loaded from, nor gives its weights back; compile the "
        "exported program with ray_zerocopy.CompiledProgram.compile(program)"
    )


def _refuse_session(obj: Any) -> Any:
    raise TypeError(
        "a session of ONNX Runtime does not give its model back; wrap ray_zerocopy.OnnxModel(path_or_bytes) instead, "
        "which has its run(), get_inputs() and get_outputs()"
    )


def _training(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The outermost modules of those that hold anything in training mode: `eval` is called on them at thaw."""
    if not any(_trains(module) for module in modules):
        return []
    inner = {id(child) for module in modules for child in module.children()}
    outermost = [module for module in modules if id(module) not in inner]
    return [module for module in outermost if any(map(_trains, module.modules()))]


def _trains(module: nn.Module) -> bool:
    parts = module.modules() if isinstance(module, torch.jit.ScriptModule) else (module,)
    return any(getattr(part, "training", False) for part in parts)  # a frozen ScriptModule has no mode
