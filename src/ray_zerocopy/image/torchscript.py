"""TorchScript modules as leaves of an image: their code goes into archives, their storages become blocks.

The route is that of `torch.package`: a `ScriptModuleSerializer` writes the code and the object graph of any number of
modules into one archive and leaves out each storage that its context already knows; the importer takes the storages
that its own context has instead of reading them. So the storages are registered beforehand, and the archive holds no
weights. A storage that was not found beforehand (a quantized operator's packed weights, which exist only while they are
written) is simply in the archive: it is right, and private to whoever thaws it.

An archive holds what one root of an image needs, for it can only be imported as a whole: modules keep what they share
(submodules, lists, objects, classes), and nobody imports another's models.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

import torch
from torch.jit._recursive import wrap_cpp_module
from torch.multiprocessing.reductions import StorageWeakRef

from ray_zerocopy import _engine
from ray_zerocopy.image.image import FrozenScripts, entry
from ray_zerocopy.image.script_classes import merge_equal_classes
from ray_zerocopy.image.tensors import form_of, is_plain, tensor_in

_C: Any = torch._C  # The stubs of torch lack most of these names.
CppModule: TypeAlias = Any  # torch._C.ScriptModule

_CPU = torch.device("cpu")

_STORAGE = re.compile(r"\.data/\d+\.storage")
"""The record of a storage in an archive."""


class ScriptArchives:
    """Numbers ScriptModules and writes them into archives. For one thread; the modules are read, never changed.

    Args:
        block_of: numbers a storage's block.
    """

    def __init__(self, block_of: Callable[[torch.UntypedStorage], int]) -> None:
        self._block_of = block_of
        self._numbers: dict[CppModule, int] = {}
        self._modules: list[torch.jit.ScriptModule] = []

    def add(self, module: torch.jit.ScriptModule) -> int:
        """The module's number, by which `FrozenScripts.modules` has it: the same for the same C++ module."""
        number = self._numbers.setdefault(module._c, len(self._modules))
        if number == len(self._modules):
            self._modules.append(module)
        return number

    def archive(self, numbers: AbstractSet[int]) -> FrozenScripts:
        """Writes an archive of the modules with these numbers.

        Raises:
            ValueError: a module holds weights packed for oneDNN, which TorchScript cannot load from anywhere.
            RuntimeError: TorchScript cannot save one of the modules (`torch.jit.save` fails alike).
        """
        paths = _paths([self._modules[number]._c for number in sorted(numbers)])
        roots = [module for module, (_, path) in paths.items() if not path]
        holder = _holder([self._modules[self._numbers[root]] for root in roots])
        buffer = io.BytesIO()
        writer = _C.PyTorchFileWriter(buffer)
        serializer = _C.ScriptModuleSerializer(writer)
        context = serializer.storage_context()
        blocks: list[int] = []
        sizes: list[int] = []
        for tensor in _all_tensors(roots):
            for part in _strided_parts(tensor):
                storage = part.untyped_storage()
                if not context.has_storage(storage):
                    context.get_or_add_storage(storage)  # numbers them from 0 on
                    blocks.append(self._block_of(storage))
                    sizes.append(storage.nbytes())
        serializer.serialize(holder, 0)
        serializer.write_files()
        writer.write_end_of_file()
        indices = {root: index for index, root in enumerate(roots)}
        modules = {self._numbers[module]: (indices[root], path) for module, (root, path) in paths.items()}
        records = _reduced(buffer.getvalue())
        has_storages = any(_STORAGE.fullmatch(name) for name in records)
        return FrozenScripts(_archive(records), tuple(blocks), tuple(sizes), has_storages, modules)


def _paths(modules: Sequence[CppModule]) -> dict[CppModule, tuple[CppModule, tuple[str, ...]]]:
    """For each module the outermost one of them that holds it, and the submodules' names on the way from there."""
    wanted = set(modules)
    inner = {module for root in modules for _, module in _descendants(root) if module in wanted}
    paths: dict[CppModule, tuple[CppModule, tuple[str, ...]]] = {}
    for root in modules:
        if root not in inner:
            paths[root] = (root, ())
            for path, module in _descendants(root):
                if module in inner:
                    paths.setdefault(module, (root, path))
    return paths


def thaw_scripts(
    frozen: FrozenScripts, storage_of: Callable[[int], torch.UntypedStorage]
) -> dict[int, torch.jit.ScriptModule]:
    """The modules of an archive, by their numbers, on the CPU.

    Args:
        frozen: what `ScriptArchives.archive` returned.
        storage_of: gives the storage of a block. The modules' tensors lie in these storages and keep them alive.

    Raises:
        ValueError: a storage is not of the size that the archive needs.
    """
    return _placed(frozen, _imported(frozen, _CPU, storage_of))


def thaw_scripts_onto(
    device: torch.device,
    frozen: FrozenScripts,
    host_storage: Callable[[int], torch.UntypedStorage],
    device_storage: Callable[[int], torch.UntypedStorage],
) -> dict[int, torch.jit.ScriptModule]:
    """The modules of an archive, by their numbers, on another device.

    Args:
        device: where the modules' tensors shall be.
        frozen: what `ScriptArchives.archive` returned.
        host_storage: gives a storage on the CPU with a block's bytes, which is only read, and is not kept.
        device_storage: gives a block's storage on the device, the same one each time.
    """
    roots = None if frozen.has_storages else _imported_and_moved(frozen, host_storage, device_storage)
    # The importer itself can move tensors of all kinds; but it copies for each archive, and for constants once more.
    return _placed(frozen, roots or _imported(frozen, device, host_storage))


def _imported_and_moved(
    frozen: FrozenScripts,
    host_storage: Callable[[int], torch.UntypedStorage],
    device_storage: Callable[[int], torch.UntypedStorage],
) -> list[CppModule] | None:
    """The outermost modules, each of their tensors moved into its device storage; None if not all could be moved."""
    on_host = {block: host_storage(block) for block in frozen.blocks}
    roots = _imported(frozen, _CPU, on_host.__getitem__)
    block_of = {storage._cdata: block for block, storage in on_host.items()}
    for tensor in _all_tensors(roots):
        block = block_of.get(tensor.untyped_storage()._cdata) if is_plain(tensor) else None
        if block is not None:
            dtype, offset, shape, stride, _ = form_of(tensor)
            moved = tensor_in(device_storage(block), torch.Tensor, dtype, offset, shape, stride, False)
            if torch._has_compatible_shallow_copy_type(tensor, moved):  # not on the meta device
                tensor.data = moved
    held = [StorageWeakRef(storage) for storage in on_host.values()]
    on_host.clear()
    return roots if all(storage.expired() for storage in held) else None


def _imported(
    frozen: FrozenScripts, device: torch.device, storage_of: Callable[[int], torch.UntypedStorage]
) -> list[CppModule]:
    """The outermost modules of an archive."""
    reader = _C.PyTorchFileReader(io.BytesIO(frozen.archive))
    context = _C.DeserializationStorageContext()
    for number, (block, nbytes) in enumerate(zip(frozen.blocks, frozen.sizes, strict=True)):
        storage = storage_of(block)
        _engine.check_whole_array(storage.nbytes(), 1, (nbytes,))  # the importer believes the archive
        context.add_storage(f"{number}.storage", torch.empty(0, dtype=torch.uint8).set_(storage))
    # In a unit of its own, all class names of the archive are free. Modules keep their unit alive.
    holder = _C._import_ir_module_from_package(_C.CompilationUnit(), reader, context, device, "0")
    modules: list[CppModule] = list(holder.getattr("modules"))
    return modules


def _placed(frozen: FrozenScripts, roots: Sequence[CppModule]) -> dict[int, torch.jit.ScriptModule]:
    """The modules of an archive by their numbers, given its outermost ones."""
    wrapped = [wrap_cpp_module(root) for root in roots]
    modules = {}
    for number, (index, path) in frozen.modules.items():
        module = entry(wrapped, index, "TorchScript module")
        for name in path:
            module = module._modules[name]
        modules[number] = module
    return modules


def python_attributes(module: torch.jit.ScriptModule) -> dict[str, object]:
    """What Python code has set on a module besides its TorchScript attributes (`traced.config = …`).

    `torch.jit.save` drops it; `vars(thawed).update(...)` puts it back.
    """
    wrapper = vars(module).get("_actual_script_module", module)
    return {
        name: value
        for name, value in vars(wrapper).items()
        if name not in _WRAPPER_ATTRIBUTES and not _is_compiled(value)
    }


def _is_compiled(value: object) -> bool:
    """Whether a module's attribute is a method or, as `torch.jit.script` leaves them there, a property of methods."""
    parts = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
    return any(isinstance(part, _C.ScriptMethod) for part in parts)


_WRAPPER_ATTRIBUTES = frozenset(vars(wrap_cpp_module(_C.ScriptModule("Empty", _C.CompilationUnit(), True))))


def _reduced(archive: bytes) -> dict[str, bytes]:
    """The records of an archive less what would only be parsed at each load and kept by each worker.

    That is classes that another one equals, and the table that leads from the code to lines of Python source (a tenth
    of a load; errors show the TorchScript code).
    """
    reader = _C.PyTorchFileReader(io.BytesIO(archive))
    # A writer makes those records itself that are not the archive's data.
    records = {
        name: reader.get_record(name)
        for name in reader.get_all_records()
        if name.startswith(".data/") and name != ".data/serialization_id" and not name.endswith(".debug_pkl")
    }
    return merge_equal_classes(records)


def _archive(records: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    writer = _C.PyTorchFileWriter(buffer)
    for name, record in records.items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


def _holder(roots: list[torch.jit.ScriptModule]) -> CppModule:
    """A module that holds `roots` in a tuple, so that one import brings them all, with what they share still shared.

    In a tuple they are not its submodules. The importer ends by searching all graphs of the submodules for quantized
    convolutions as written by torch 1.5; for a traced BERT that is as slow as all the rest, and can find nothing in
    modules that were alive a moment ago.
    """
    holder = _C.ScriptModule("__torch__.Holder", _C.CompilationUnit(), True)
    kind = _C.TupleType([root._c._type() for root in roots])
    holder._register_attribute("modules", kind, tuple(roots))
    return holder


def _descendants(module: CppModule, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], CppModule]]:
    for name, child in _C.ModuleDict(module).items():
        yield (*path, name), child
        yield from _descendants(child, (*path, name))


def _all_tensors(roots: Sequence[CppModule]) -> Iterator[torch.Tensor]:
    """The tensors that the serializer meets: attributes of every kind, and constants in the code."""
    modules = dict.fromkeys(roots)
    for root in roots:
        modules.update(dict.fromkeys(module for _, module in _descendants(root)))
    for module in modules:
        yield from (parameter for _, parameter in _C.ParameterDict(module).items())
        attributes = _C.ConcreteModuleType.from_jit_type(module._type()).get_attributes()
        for name, (kind, _) in attributes.items():
            if _may_hold_tensors(kind):
                yield from _tensors(module.getattr(name))
        for name in module._method_names():
            for constant in constants_of(module._get_method(name)):
                yield from _tensors(constant)


def _may_hold_tensors(kind: Any) -> bool:
    """Whether values of this type are worth turning into Python objects (a vocabulary of strings is not)."""
    if kind.kind() in ("ListType", "DictType", "OptionalType", "TupleType", "UnionType"):
        return any(map(_may_hold_tensors, kind.containedTypes()))
    return kind.kind() in ("TensorType", "ClassType", "AnyType")


def constants_of(method: Any) -> Iterator[object]:
    """The constants in a method's code that may be or hold tensors.

    Raises:
        ValueError: one is of a kind that cannot be saved.
    """
    graph = method.graph
    if graph.findNode("prim::ConstantMKLDNNTensor"):
        raise ValueError(
            "a module went through torch.jit.optimize_for_inference, which packed its weights for oneDNN: TorchScript "
            "cannot load such a module again; share the module as it was before, and optimize it where it is loaded"
        )
    if any(node.hasAttribute("name") for node in graph.findAllNodes("prim::Constant")):
        graph = method.inlined_graph  # It calls functions: the constants in those are printed with it.
    for node in graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") in ("t", "ts", "ival"):
            yield node.output().toIValue()  # A number, where a traced number became a tensor of no dimension.


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(key)
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, _C.ScriptObject):
        for name in _attribute_names(value):
            yield from _tensors(value.getattr(name))
    elif hasattr(type(value), "__torch_script_class__") or hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


def _attribute_names(instance: Any) -> set[str]:
    """The attributes of a TorchScript class's instance: its type lists them nowhere, but `__init__` sets them all."""
    if instance._has_method("__getstate__") or not instance._has_method("__init__"):
        return set()  # A C++ class: what is written of it are tensors made for the occasion.
    return {node.s("name") for node in instance._get_method("__init__").graph.findAllNodes("prim::SetAttr")}


def _strided_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is torch.sparse_coo:
        return (tensor._indices(), tensor._values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    return ()
