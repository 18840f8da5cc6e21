"""ONNX models run by ONNX Runtime, their weights outside of the session: optimized once, run anywhere, shared."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ray_zerocopy.image.blocks import Span

_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
}
"""What torch calls the element types of ONNX (`TensorProto.DataType`), by their numbers, that it has, too."""

_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}

_WITHOUT_NUMPY = ("tensor(bfloat16)", "tensor(float8")
"""What the types of outputs begin with that ONNX Runtime does not turn into arrays."""

_RANDOM = frozenset(
    {
        "Bernoulli",
        "BiasDropout",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Sampling",
    }
)
"""Operators whose results depend on the calls before."""

_SMALLEST_SHARED = 1024
"""Bytes. Smaller initializers stay in the graph: ONNX Runtime infers shapes from some of them."""

_FILE = "weights"
"""What the graph calls the file of its weights."""


class _Initializer(NamedTuple):
    type: int
    """Of its elements: a number of `TensorProto.DataType`."""
    bits: npt.NDArray[Any]
    """Its elements as unsigned integers of their size, in its shape: numpy has no bfloat16 and no float8."""


class OnnxModel:
    """An ONNX model that ONNX Runtime runs on the CPU; callable with tensors or arrays, from several threads.

    In a pipeline it is a model like any other: the graph travels in the image, and its initializers are shared. (An
    `onnxruntime.InferenceSession` cannot be pickled.) ONNX Runtime uses them where they are and never writes to them.

    The graph is optimized here, once: constants are folded and operators fused, as by `ORT_ENABLE_EXTENDED`. The
    optimizations of `ORT_ENABLE_ALL` that fit the weights to one kind of processor are left out. A worker optimizes
    nothing, needs onnxruntime, but not onnx, and uses as many threads as torch has in it.

    Args:
        path_or_bytes: of a file, which may have its weights in other files beside it; or the content of one.
        prepack: whether each session copies the weights into a layout that matrix products are faster with. The copies
            are then each worker's own, about the size of the weights that are used that way.

    Raises:
        ImportError: onnx or onnxruntime is missing; the message says what to install.
        OSError: the file cannot be read.
        TypeError: `path_or_bytes` is neither.
        ValueError: it is not a model that ONNX Runtime can run.
    """

    def __init__(self, path_or_bytes: str | os.PathLike[str] | bytes, *, prepack: bool = False) -> None:
        _imported("onnx")
        if isinstance(path_or_bytes, bytes):
            source: str | bytes = path_or_bytes
        elif isinstance(path_or_bytes, (str, os.PathLike)):
            source = os.path.abspath(os.fspath(path_or_bytes))
            with open(source, "rb"):
                pass  # ONNX Runtime's errors would not be an OSError
        else:
            raise TypeError(
                f"Expected the path of an ONNX file, or its content as bytes, got {type(path_or_bytes).__name__}."
            )
        self._graph, self._initializers, self._is_random = _optimized(source)
        self._prepack = prepack
        self._open()

    def _open(self) -> None:
        runtime = _imported("onnxruntime")
        options = _options(runtime, runtime.GraphOptimizationLevel.ORT_DISABLE_ALL, self._prepack)
        options.intra_op_num_threads = torch.get_num_threads()
        from_bits = runtime.OrtValue.ortvalue_from_numpy_with_onnx_type
        # They are over the memory of the initializers; the session only points at them.
        self._values = {name: from_bits(bits, kind) for name, (kind, bits) in self._initializers.items()}
        for name, value in self._values.items():
            options.add_initializer(name, value)
        # Without a file of its name beside the graph, an initializer that lies outside is an error, used or not.
        with tempfile.TemporaryDirectory(prefix="ray_zerocopy-onnx-") as folder:
            path = os.path.join(folder, "model.onnx")
            with open(path, "wb") as file, open(os.path.join(folder, _FILE), "wb"):
                file.write(self._graph)
            self._session = runtime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            args: inputs in the order of `get_inputs()`: tensors, arrays, or whatever else ONNX Runtime takes.
            kwargs: inputs by their names.

        Returns:
            The output; a tuple of them if there are several. If an input is a tensor they are tensors, on its device
            (arrays within sequences stay arrays); else arrays. numpy has no bfloat16 and no float8: a model with such
            outputs must be given a tensor.

        Raises:
            TypeError: an input is missing, given twice, or unknown.
        """
        feeds = self._bound(args, kwargs)
        tensors = [value for value in feeds.values() if isinstance(value, torch.Tensor)]
        if tensors:
            outputs = [_on(tensors[0].device, output) for output in self._run_with_tensors(feeds)]
        else:
            outputs = self._session.run(None, feeds)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _run_with_tensors(self, feeds: Mapping[str, Any]) -> Iterator[Any]:
        """The outputs; those that are tensors are in the host's memory."""
        given = {name: _fed(value) if isinstance(value, torch.Tensor) else value for name, value in feeds.items()}
        if not any(output.type.startswith(_WITHOUT_NUMPY) for output in self._session.get_outputs()):
            for output in self._session.run(None, given):
                yield torch.from_numpy(output) if isinstance(output, np.ndarray) and output.dtype != object else output
            return
        values = {name: value if hasattr(value, "data_ptr") else _value_of(value) for name, value in given.items()}
        for value in self._session.run_with_ort_values(None, values):
            elements = np.asarray(Span(value.data_ptr(), value.tensor_size_in_bytes(), [value])).copy()
            yield torch.from_numpy(elements).view(_DTYPES[value.element_type()]).view(value.shape())

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs that were given, by name."""
        names = [value.name for value in self._session.get_inputs()]
        expected = f"the model has the inputs {', '.join(names)}"
        if len(args) > len(names):
            raise TypeError(f"{expected}; got {len(args)} positional ones")
        feeds = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name in feeds or name not in names:
                raise TypeError(f"{expected}; {name!r} was given {'twice' if name in feeds else 'besides'}")
            feeds[name] = value
        if missing := [name for name in names if name not in feeds]:
            raise TypeError(f"{expected}; got none for {', '.join(missing)}")
        return feeds

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]:
        """Run the model as `onnxruntime.InferenceSession.run` does: arrays in, by name; a list of arrays out.

        Args:
            output_names: which outputs; None: all.
            input_feed: the inputs by their names.
        """
        outputs: list[Any] = self._session.run(output_names, dict(input_feed))
        return outputs

    def get_inputs(self) -> list[Any]:
        """What `onnxruntime.InferenceSession.get_inputs` gives: the name, shape and type of each."""
        return list(self._session.get_inputs())

    def get_outputs(self) -> list[Any]:
        """What `onnxruntime.InferenceSession.get_outputs` gives: the name, shape and type of each."""
        return list(self._session.get_outputs())

    @property
    def is_random(self) -> bool:
        """Whether the model draws random numbers, so that a call depends on those before it."""
        return self._is_random

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """Tensors over the memory of the initializers that are outside of the graph, by name."""
        return {name: torch.from_numpy(bits).view(_DTYPES[kind]) for name, (kind, bits) in self._initializers.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays rather than tensors, which a load onto a device would move there.
        return _restored, (type(self), self._graph, self._initializers, self._is_random, self._prepack)


def _restored(
    cls: type[OnnxModel], graph: bytes, initializers: dict[str, _Initializer], is_random: bool, prepack: bool
) -> OnnxModel:
    model = cls.__new__(cls)
    model._graph, model._initializers, model._is_random, model._prepack = graph, initializers, is_random, prepack
    model._open()
    return model


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"OnnxModel needs {name}: pip install 'ray-zerocopy[onnx]'", name=name) from error


def _options(runtime: Any, level: Any, prepack: bool) -> Any:
    options = runtime.SessionOptions()
    options.graph_optimization_level = level
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _optimized(source: str | bytes) -> tuple[bytes, dict[str, _Initializer], bool]:
    """The graph of a model, optimized, without its large initializers; those; and whether it is random."""
    runtime = _imported("onnxruntime")
    options = _options(runtime, runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, prepack=False)
    with tempfile.TemporaryDirectory(prefix="ray_zerocopy-onnx-") as folder:
        options.optimized_model_filepath = os.path.join(folder, "model.onnx")
        for entry, value in {
            "session.optimized_model_external_initializers_file_name": _FILE,
            "session.optimized_model_external_initializers_min_size_in_bytes": str(_SMALLEST_SHARED),
        }.items():
            options.add_session_config_entry(entry, value)
        try:
            runtime.InferenceSession(source, options, ["CPUExecutionProvider"])
        except Exception as error:  # those of ONNX Runtime have no class in common
            origin = "the bytes given" if isinstance(source, bytes) else repr(source)
            raise ValueError(f"Expected an ONNX model in {origin}; ONNX Runtime says: {error}") from error
        return _taken_apart(options.optimized_model_filepath, os.path.join(folder, _FILE))


def _taken_apart(graph: str, weights: str) -> tuple[bytes, dict[str, _Initializer], bool]:
    """As `_optimized`, of a file whose large initializers are in another."""
    model = _imported("onnx").load(graph, load_external_data=False)
    memory = np.fromfile(weights, np.uint8) if os.path.exists(weights) else np.empty(0, np.uint8)
    graphs = list(_graphs(model.graph))
    tensors = [tensor for graph in graphs for tensor in graph.initializer]
    names = Counter(tensor.name for tensor in tensors)
    initializers = {}
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries:
            continue
        begin, nbytes = int(entries["offset"]), int(entries["length"])
        bits = memory[begin : begin + nbytes]
        del tensor.external_data[:]
        dtype = _DTYPES.get(tensor.data_type)
        # ONNX Runtime is told of initializers by their names alone, of which each subgraph may have its own.
        if dtype is None or names[tensor.name] > 1:
            tensor.data_location = tensor.DEFAULT
            tensor.raw_data = bits.tobytes()
            continue
        for key, value in {"location": _FILE, "length": str(nbytes)}.items():
            tensor.external_data.add(key=key, value=value)
        aligned = bits.copy() if begin % dtype.itemsize else bits
        shaped = aligned.view(f"u{dtype.itemsize}").reshape(tuple(tensor.dims))
        initializers[tensor.name] = _Initializer(tensor.data_type, shaped)
    is_random = any(node.op_type in _RANDOM for graph in graphs for node in graph.node)
    return model.SerializeToString(), initializers, is_random


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph, and those within its nodes (the branches of an `If`, the body of a `Loop`)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def _fed(tensor: torch.Tensor) -> Any:
    """A tensor as an input of a session: an array, or a value of ONNX Runtime's where numpy lacks the dtype."""
    host = tensor.detach().cpu().contiguous()
    number = _NUMBERS.get(host.dtype)
    if number is None:
        raise TypeError(f"ONNX has no tensors of {host.dtype}")
    is_numpys = not host.dtype.is_floating_point or host.dtype in (torch.float16, torch.float32, torch.float64)
    if is_numpys:
        return host.numpy()
    bits = host.view(torch.uint16 if host.itemsize == 2 else torch.uint8).numpy()
    return _imported("onnxruntime").OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def _value_of(value: Any) -> Any:
    return _imported("onnxruntime").OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))


def _on(device: torch.device, output: Any) -> Any:
    return output.to(device) if isinstance(output, torch.Tensor) else output
