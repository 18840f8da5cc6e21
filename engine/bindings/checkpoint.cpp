#include "checkpoint.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>

#include "text.h"
#include "zerocopy/error.h"
#include "zerocopy/safetensors.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace zerocopy::python {
namespace {

using ReadOnlyBytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>, nb::c_contig>;

// Opened without the GIL: a file may be on a disk, or on a server, that takes its time.
Checkpoint open(nb::handle given) {
  const std::string path = path_from(given);
  try {
    const nb::gil_scoped_release no_gil;
    return Checkpoint::open(path);
  } catch (const Error& error) {
    if (error.code() != Error::Code::system_call) {
      throw;
    }
    raise_os_error(error.system_error(), std::generic_category().message(error.system_error()), path);
  }
}

// The array holds the Python object that the Checkpoint is in, and so the file's mapping.
ReadOnlyBytes data(nb::handle_t<Checkpoint> self) {
  const std::span<const std::byte> bytes = nb::cast<const Checkpoint&>(self).data();
  return ReadOnlyBytes(bytes.data(), {bytes.size()}, self);
}

nb::list tensors(const Checkpoint& checkpoint) {
  nb::list tensors;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    nb::list shape;
    for (const std::uint64_t length : tensor.shape) {
      shape.append(length);
    }
    tensors.append(nb::make_tuple(tensor.name, tensor.dtype, nb::tuple(shape), tensor.offset, tensor.nbytes));
  }
  return tensors;
}

}  // namespace

void bind_checkpoint(const nb::module_& module) {
  nb::class_<Checkpoint>(module, "Checkpoint", nb::is_final(),
                         "A safetensors file, open for reading; its header has been checked.\n\n"
                         "All members may be used from any thread. Nobody may write to the file in place or shorten "
                         "it while\n"
                         "it is open; it may be removed or replaced by another of its name.")
      .def_static("open", &open, "path"_a, nb::sig("def open(path: str | bytes | os.PathLike[str]) -> Checkpoint"),
                  "Opens a file and checks its header.\n\n"
                  "Raises:\n"
                  "    OSError: it cannot be opened or mapped.\n"
                  "    ImageError: it is no safetensors file, or not a whole one.")
      .def_prop_ro("tensors", &tensors,
                   nb::sig("def tensors(self) -> list[tuple[str, str, tuple[int, ...], int, int]]"),
                   "Of each tensor: name, dtype as safetensors spells it, shape, the offset of its first byte from "
                   "the\n"
                   "start of the data, and how many bytes it has.")
      .def("data", &data, nb::sig("def data(self) -> numpy.typing.NDArray[numpy.uint8]"),
           "All of the data, shared with everybody who has the file open: shape (bytes,), read-only.\n\n"
           "The array keeps the Checkpoint, and so the file's mapping.");
}

}  // namespace zerocopy::python
