#include "checkpoint.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "text.h"
#include "zerocopy/safetensors.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace zerocopy::python {
namespace {

using ReadOnlyBytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>, nb::c_contig>;

Checkpoint open(const nb::args& given) {
  std::vector<std::string> paths;
  for (const nb::handle path : given) {
    paths.push_back(path_from(path));
  }
  // Messages say which of several it is.
  return with_file(paths.size() == 1 ? paths.front() : std::string(), [&] { return Checkpoint::open(paths); });
}

// The array holds the Python object that the Checkpoint is in, and so the files' mappings.
std::vector<ReadOnlyBytes> data(nb::handle_t<Checkpoint> self) {
  std::vector<ReadOnlyBytes> arrays;
  for (const CheckpointFile& file : nb::cast<const Checkpoint&>(self).files()) {
    arrays.emplace_back(file.data.data(), std::initializer_list<std::size_t>{file.data.size()}, self);
  }
  return arrays;
}

nb::list tensors(const Checkpoint& checkpoint) {
  nb::list tensors;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    nb::list shape;
    for (const std::uint64_t length : tensor.shape) {
      shape.append(length);
    }
    tensors.append(
        nb::make_tuple(tensor.name, tensor.dtype, nb::tuple(shape), tensor.file, tensor.offset, tensor.nbytes));
  }
  return tensors;
}

}  // namespace

void bind_checkpoint(const nb::module_& module) {
  nb::class_<Checkpoint>(
      module, "Checkpoint", nb::is_final(),
      "A checkpoint in one or several safetensors files, open for reading; the headers have been checked.\n\n"
      "All members may be used from any thread. Nobody may write to the files in place or shorten them while\n"
      "they are open; they may be removed or replaced by others of their names.")
      .def_static(
          "open", &open, nb::sig("def open(*paths: str | bytes | os.PathLike[str]) -> Checkpoint"),
          "Opens the files of a checkpoint and checks their headers.\n\n"
          "Args:\n"
          "    *paths: those of safetensors files; of the index of a sharded checkpoint (`*.json`), which names\n"
          "        files beside it; or of folders with one of these. Together they hold the checkpoint.\n\n"
          "Raises:\n"
          "    OSError: a file cannot be opened or mapped, or a folder has no checkpoint.\n"
          "    ImageError: a file is no safetensors file, or not a whole one; or an index is none, or names\n"
          "        files or tensors that are not there.\n"
          "    ValueError: a folder has several checkpoints.")
      .def_prop_ro(
          "tensors", &tensors, nb::sig("def tensors(self) -> list[tuple[str, str, tuple[int, ...], int, int, int]]"),
          "Of each tensor: name, dtype as safetensors spells it, shape, the number of its file, the offset of\n"
          "its first byte from the start of that file's data, and how many bytes it has.")
      .def("data", &data, nb::sig("def data(self) -> list[numpy.typing.NDArray[numpy.uint8]]"),
           "The data of each file, shared with everybody who has it open: shape (bytes,), read-only.\n\n"
           "Each array keeps the Checkpoint, and so the files' mappings.");
}

}  // namespace zerocopy::python
