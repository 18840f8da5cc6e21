"""TorchScript modules as leaves of an image: their code goes into an archive, their storages become blocks.

The route is that of `torch.package`: a `ScriptModuleSerializer` writes the code and the object graph of any number of
modules into one archive and leaves out each storage that its context already knows; the importer takes the storages
that its own context has instead of reading them. So the storages are registered beforehand, and the archive holds no
weights. A storage that was not found beforehand (a quantized operator's packed weights, which exist only while they are
written) is simply in the archive: it is right, and private to whoever thaws it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch.jit._recursive import wrap_cpp_module

from ray_zerocopy.image.image import FrozenScripts
from ray_zerocopy.image.script_classes import merge_equal_classes

_C: Any = torch._C  # The stubs of torch lack most of these names.
CppModule: TypeAlias = Any  # torch._C.ScriptModule


class ScriptArchive:
    """Collects ScriptModules and writes them into one archive. For one thread; the modules are read, never changed.

    Args:
        block_of: numbers a storage's block.
    """

    def __init__(self, block_of: Callable[[torch.UntypedStorage], int]) -> None:
        self._block_of = block_of
        self._numbers: dict[CppModule, int] = {}
        self._modules: list[torch.jit.ScriptModule] = []

    def add(self, module: torch.jit.ScriptModule) -> int:
        """The module's number in `FrozenScripts.modules`: the same for the same C++ module."""
        number = self._numbers.setdefault(module._c, len(self._modules))
        if number == len(self._modules):
            self._modules.append(module)
        return number

    def finish(self) -> FrozenScripts | None:
        """Writes the archive; None if there is nothing to write.

        Raises:
            ValueError: a module holds weights packed for oneDNN, which TorchScript cannot load from anywhere.
            RuntimeError: TorchScript cannot save one of the modules (`torch.jit.save` fails alike).
        """
        if not self._numbers:
            return None
        paths = self._paths()
        roots = [module for module in self._numbers if not paths[module][1]]
        holder = _holder([self._modules[self._numbers[root]] for root in roots])
        buffer = io.BytesIO()
        writer = _C.PyTorchFileWriter(buffer)
        serializer = _C.ScriptModuleSerializer(writer)
        context = serializer.storage_context()
        blocks: list[int] = []
        for tensor in _all_tensors(roots):
            storage = tensor.untyped_storage()
            if not context.has_storage(storage):
                context.get_or_add_storage(storage)  # numbers them from 0 on
                blocks.append(self._block_of(storage))
        serializer.serialize(holder, 0)
        serializer.write_files()
        writer.write_end_of_file()
        indices = {root: index for index, root in enumerate(roots)}
        modules = tuple((indices[root], path) for root, path in (paths[module] for module in self._numbers))
        archive = _reduced(buffer.getvalue())
        return FrozenScripts(archive, tuple(blocks), modules)

    def _paths(self) -> dict[CppModule, tuple[CppModule, tuple[str, ...]]]:
        """For each module its outermost root among the collected ones and the way to it from there."""
        paths: dict[CppModule, tuple[CppModule, tuple[str, ...]]] = {}
        inner: set[CppModule] = set()
        for root in self._numbers:
            for _, module in _descendants(root):
                if module in self._numbers:
                    inner.add(module)
        for root in self._numbers:
            if root not in inner:
                paths[root] = (root, ())
                for path, module in _descendants(root):
                    if module in inner:
                        paths.setdefault(module, (root, path))
        return paths


def thaw_scripts(
    frozen: FrozenScripts, device: torch.device, storage_of: Callable[[int], torch.UntypedStorage]
) -> list[torch.jit.ScriptModule]:
    """The modules of an archive, in the order of their numbers.

    Args:
        frozen: what `ScriptArchive.finish` returned.
        device: where the modules' tensors shall be; elsewhere than on the CPU they are copies.
        storage_of: gives the storage, on the CPU, of a block. The modules' tensors lie in these storages and keep them
            alive.
    """
    reader = _C.PyTorchFileReader(io.BytesIO(frozen.archive))
    context = _C.DeserializationStorageContext()
    for number, block in enumerate(frozen.blocks):
        tensor = torch.empty(0, dtype=torch.uint8)
        context.add_storage(f"{number}.storage", tensor.set_(storage_of(block)))
    # In a unit of its own, all class names of the archive are free. Modules keep their unit alive.
    holder = _C._import_ir_module_from_package(_C.CompilationUnit(), reader, context, device, "0")
    roots = [wrap_cpp_module(module) for module in holder.getattr("modules")]
    modules = []
    for index, path in frozen.modules:
        module = roots[index]
        for name in path:
            module = module._modules[name]
        modules.append(module)
    return modules


def python_attributes(module: torch.jit.ScriptModule) -> dict[str, object]:
    """What Python code has set on a module besides its TorchScript attributes (`traced.config = …`).

    `torch.jit.save` drops it; `vars(thawed).update(...)` puts it back.
    """
    wrapper = vars(module).get("_actual_script_module", module)
    return {
        name: value
        for name, value in vars(wrapper).items()
        if name not in _WRAPPER_ATTRIBUTES and not isinstance(value, _C.ScriptMethod)
    }


_WRAPPER_ATTRIBUTES = frozenset(vars(wrap_cpp_module(_C.ScriptModule("Empty", _C.CompilationUnit(), True))))


def _reduced(archive: bytes) -> bytes:
    """The archive less what would only be parsed at each load and kept by each worker.

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
    buffer = io.BytesIO()
    writer = _C.PyTorchFileWriter(buffer)
    for name, record in merge_equal_classes(records).items():
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


def _all_tensors(roots: list[CppModule]) -> Iterator[torch.Tensor]:
    """The tensors that the serializer will meet: attributes of every kind, and constants in the code."""
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
        yield from _strided_parts(value)
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
