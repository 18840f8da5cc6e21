"""AOTInductor packages with their constants outside: compiled once, run anywhere, the constants shared."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree


class CompiledProgram:
    """A program compiled by AOTInductor: callable as the exported program's `module()` was. One call at a time.

    In a pipeline it is a model like any other: the package travels in the image, and the constants are shared.

    Loading needs no compiler and nothing of inductor's Python (whose import alone costs a worker 70 MB).

    Args:
        package: what an AOTInductor `.pt2` file holds, compiled with `aot_inductor.package_constants_in_so=False`.
        constants: the program's parameters, buffers and tensor constants by their names in the package. They are used
            where they are; a buffer that the program changes is changed in place.

    Raises:
        ValueError: the package needs a constant that `constants` lacks.
        RuntimeError: this torch is too old for it; or the library in the package cannot be loaded here.
        zipfile.BadZipFile: `package` is no package.
    """

    def __init__(self, package: bytes, constants: Mapping[str, torch.Tensor]) -> None:
        loader = _loader_class()
        self._package = package
        self._constants = dict(constants)
        # The loader would unpack a file by itself, into a folder that stays behind when the process is killed.
        self._folder = tempfile.TemporaryDirectory(prefix="aotinductor-")
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            archive.extractall(self._folder.name)
        self._loader = loader(self._folder.name, "model", False, 1, -1)
        if self._loader.get_metadata()["AOTI_DEVICE_KEY"] == "cpu":
            self._folder.cleanup()  # The library is mapped. A GPU's kernels are read when they first run.
        names = self._loader.get_constant_fqns()
        if missing := sorted(set(names) - self._constants.keys()):
            raise ValueError(f"the package needs constants that were not given: {', '.join(missing)}")
        # The loader never lets go of a tensor that it was given to use in place, so it gets tensors that own no memory.
        borrowed = {name: _borrowed(self._constants[name]) for name in names}
        self._loader.load_constants(borrowed, False, True, True)
        self._inputs, self._outputs = map(pytree.treespec_loads, self._loader.get_call_spec())

    @classmethod
    def compile(cls, program: ExportedProgram, options: Mapping[str, Any] | None = None) -> CompiledProgram:
        """Compiles a program (a C++ compiler is needed here, and only here).

        Args:
            program: its parameters and buffers become the constants, in the memory where they are.
            options: inductor's, as for `torch._inductor.aoti_compile_and_package`.

        Raises:
            ValueError: the program was saved without its example inputs.
            RuntimeError: this torch is too old for it.
        """
        _loader_class()
        from torch._inductor import aot_compile, config
        from torch._inductor.package.package import package_aoti

        if missing := [name for name in _OPTIONS if not hasattr(config.aot_inductor, name)]:
            raise RuntimeError(_too_old(f"inductor's option aot_inductor.{missing[0]}"))
        outside = {
            "aot_inductor.package": True,
            "aot_inductor.package_constants_in_so": False,
            "aot_inductor.package_constants_on_disk_format": "pickle_weights",  # hands out the constants
        }
        if program.example_inputs is None:
            raise ValueError("the program has no example inputs, which the compiler needs")
        args, kwargs = program.example_inputs
        unguarded = {"check_guards": False} if "check_guards" in signature(program.module).parameters else {}
        files: Any = aot_compile(program.module(**unguarded), args, kwargs, options={**(options or {}), **outside})
        package = io.BytesIO()
        package_aoti(package, [file for file in files if isinstance(file, str)])
        [weights] = [file for file in files if not isinstance(file, str)]
        own = {**program.constants, **program.state_dict}  # Of buffers the compiler has clones.
        constants = {name: own.get(name, tensor).detach() for name, (tensor, _) in weights.items()}
        return cls(package.getvalue(), constants)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program. Shapes and dtypes are not checked: they must be those that it was exported for.

        Raises:
            TypeError: the arguments are not structured as those that the program was exported for.
        """
        names = pytree.tree_unflatten(range(self._inputs.num_leaves), self._inputs)[1].keys()
        if names != kwargs.keys():
            raise TypeError(f"the program was exported for the keyword arguments {list(names)}, not {list(kwargs)}")
        leaves, given = pytree.tree_flatten((args, {name: kwargs[name] for name in names}))
        if given != self._inputs:
            raise TypeError(f"the program was exported for inputs of the structure {self._inputs}, not {given}")
        outputs = self._loader.boxed_run([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)])
        return pytree.tree_unflatten(outputs, self._outputs)

    def __reduce__(self) -> tuple[type[CompiledProgram], tuple[bytes, dict[str, torch.Tensor]]]:
        return type(self), (self._package, self._constants)


_OPTIONS = ("package", "package_constants_in_so", "package_constants_on_disk_format")
"""Of inductor's options for `aot_inductor`, those that keep constants out of the package."""


def _loader_class() -> Any:
    """Torch's loader of packages; raises a RuntimeError where it cannot use constants where they are."""
    loader = getattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader", None)
    load_constants = getattr(loader, "load_constants", None)
    if load_constants is None or "user_managed" not in (load_constants.__doc__ or ""):  # where its signature stands
        raise RuntimeError(_too_old("a loader of packages that uses constants where they are"))
    return loader


def _too_old(lacking: str) -> str:
    return f"CompiledProgram needs {lacking}; torch {torch.__version__} lacks it, torch 2.13 has it"


def _borrowed(tensor: torch.Tensor) -> torch.Tensor:
    storage = tensor.untyped_storage()
    alias = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), storage.device, storage.nbytes())
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(alias, tensor.storage_offset(), tensor.shape, tensor.stride())
