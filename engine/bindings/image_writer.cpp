#include "image_writer.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "buffer.h"
#include "gil.h"
#include "text.h"
#include "zerocopy/error.h"
#include "zerocopy/image_writer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace zerocopy::python {
namespace {

using Lengths = std::vector<std::uint64_t>;
using Numbers = std::vector<std::uint32_t>;
using TensorFields = std::tuple<std::string, Lengths, Lengths, std::uint32_t, std::uint64_t>;
using ModuleFields = std::tuple<std::uint64_t, std::uint64_t, std::vector<std::string>>;

Tensor tensor_of(std::string name, TensorFields fields) {
  auto& [dtype, shape, strides, block, offset] = fields;
  return {std::move(name), std::move(dtype), std::move(shape), std::move(strides), block, offset};
}

// An ImageWriter whose bytes are Python's. Ownership: the object holds the buffers of all blocks and blobs until it
// goes, so what was added cannot be freed or resized before it is written.
class PythonImageWriter {
 public:
  explicit PythonImageWriter(std::string producer) : writer_(std::move(producer)) {}

  [[nodiscard]] ImageWriter& writer() noexcept { return writer_; }

  void add_blocks(const std::vector<std::pair<std::uintptr_t, std::uint64_t>>& blocks, nb::handle owner) {
    buffers_.keep(owner);
    for (const auto& [address, nbytes] : blocks) {
      writer_.add_block({std::bit_cast<const std::byte*>(address), nbytes});
    }
  }

  std::uint32_t add_blob(nb::handle buffer) { return writer_.add_blob(buffers_.add(buffer)); }

 private:
  Buffers buffers_;
  ImageWriter writer_;
};

std::uint32_t add_root(PythonImageWriter& self, std::string name, std::uint32_t skeleton, Numbers buffers,
                       std::optional<std::uint32_t> archive, Numbers tensor_blocks, const Numbers& host_blocks) {
  return self.writer().add_root(
      {std::move(name), skeleton, std::move(buffers), archive, std::move(tensor_blocks), {}, {}}, host_blocks);
}

std::uint32_t add_archive(PythonImageWriter& self, std::uint32_t records, Numbers blocks, Lengths sizes,
                          bool has_storages, std::vector<ModuleFields> modules) {
  Archive archive{records, std::move(blocks), std::move(sizes), has_storages, {}};
  for (auto& [number, place, submodules] : modules) {
    archive.modules.push_back({number, place, std::move(submodules)});
  }
  return self.writer().add_archive(std::move(archive));
}

std::uint32_t add_program(PythonImageWriter& self, std::uint32_t package,
                          std::map<std::string, TensorFields> constants) {
  Program program{package, {}};
  for (auto& [name, fields] : constants) {
    program.constants.push_back(tensor_of(name, std::move(fields)));
  }
  return self.writer().add_program(std::move(program));
}

std::string write(PythonImageWriter& self, nb::handle given, unsigned threads, const nb::object& progress) {
  const std::string path = path_from(given);
  WriteOptions options{threads, {}};
  options.progress = [&progress](std::uint64_t written, std::uint64_t total) {
    const WithGil gil;
    if (PyErr_CheckSignals() != 0) {  // Who interrupts the program does not wait until a large file is complete.
      throw nb::python_error();
    }
    if (!progress.is_none()) {
      progress(written, total);
    }
  };
  return with_file(path, [&] { return self.writer().write(path, options); });
}

using ReadOnlyBytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>, nb::c_contig>;

nb::capsule capsule_of(std::shared_ptr<const void> memory) {
  using Held = std::shared_ptr<const void>;
  auto held = std::make_unique<Held>(std::move(memory));
  const nb::capsule owner(held.get(),
                          [](void* kept) noexcept { const std::unique_ptr<Held> last(static_cast<Held*>(kept)); });
  [[maybe_unused]] const Held* const the_capsules = held.release();
  return owner;
}

// The index, and the segments: each array holds the writer's Python object, and so the blocks' owner, and the memory of
// the segments that were put together.
nb::tuple parts(nb::handle_t<PythonImageWriter> self, bool join, Numbers apart) {
  const ImageParts parts = nb::cast<PythonImageWriter&>(self).writer().parts({join, std::move(apart)});
  const nb::object owner = nb::make_tuple(self, capsule_of(parts.owner));
  nb::list segments;
  for (const std::span<const std::byte> bytes : parts.segments) {
    segments.append(nb::cast(ReadOnlyBytes(bytes.data(), {bytes.size()}, owner)));
  }
  return nb::make_tuple(parts.index, segments);
}

}  // namespace

void bind_image_writer(const nb::module_& module) {
  nb::class_<PythonImageWriter>(
      module, "ImageWriter", nb::is_final(),
      "Collects what an image consists of, and writes it to a file or gives it in parts.\n\n"
      "What is added gets a number, by which what is added later refers to it. The same calls always make the same\n"
      "file. For one thread at a time. The methods raise ImageError for what no image has: names that are reserved\n"
      "or used twice, an unknown dtype, more than the format allows; IndexError for the number of a block or blob\n"
      "that has not been added; and ValueError for a tensor that does not lie within its block.\n\n"
      "Args:\n"
      "    producer: what writes the file, in words.")
      .def(nb::init<std::string>(), "producer"_a)
      .def("add_blocks", &PythonImageWriter::add_blocks, "blocks"_a, "owner"_a,
           nb::sig("def add_blocks(self, blocks: collections.abc.Sequence[tuple[int, int]], owner: object) -> None"),
           "Adds blocks, which get the next numbers. Nobody may change their bytes until write has returned, and as "
           "long\n"
           "as the segments of parts are in use.\n\n"
           "Args:\n"
           "    blocks: of each the address of its first byte, and its bytes.\n"
           "    owner: what keeps them in place; it is kept.")
      .def(
          "add_blob", &PythonImageWriter::add_blob, "data"_a,
          nb::sig("def add_blob(self, data: typing_extensions.Buffer) -> int"),
          "Adds the bytes of a C-contiguous buffer, which is kept. Nobody may change them until write has returned.\n\n"
          "Raises:\n"
          "    TypeError: the object has no buffer protocol.\n"
          "    BufferError, ValueError: it is not contiguous.")
      .def(
          "add_tensor",
          [](PythonImageWriter& self, std::string name, std::string dtype, Lengths shape, Lengths strides,
             std::uint32_t block, std::uint64_t offset) {
            self.writer().add_tensor(
                {std::move(name), std::move(dtype), std::move(shape), std::move(strides), block, offset});
          },
          "name"_a, "dtype"_a, "shape"_a, "strides"_a, "block"_a, "offset"_a,
          "Adds a named tensor in a block.\n\n"
          "Args:\n"
          "    name: by which safetensors can read it, if it is all of its block's bytes.\n"
          "    dtype: as safetensors spells it.\n"
          "    shape, strides: elements.\n"
          "    block: the number of its block.\n"
          "    offset: bytes from the start of the block.")
      .def("add_root", &add_root, "name"_a, "skeleton"_a, "buffers"_a, "archive"_a.none(), "tensor_blocks"_a,
           "host_blocks"_a,
           "Adds an object graph.\n\n"
           "Args:\n"
           "    name: its own among the roots.\n"
           "    skeleton: the number of its blob.\n"
           "    buffers: the blocks of its pickle.PickleBuffers, in the order of the stream.\n"
           "    archive: the number of the archive of its TorchScript modules, if it has any.\n"
           "    tensor_blocks: the blocks that go where its tensors go.\n"
           "    host_blocks: those that stay in the host's memory in any case.")
      .def("add_archive", &add_archive, "records"_a, "blocks"_a, "sizes"_a, "has_storages"_a, "modules"_a,
           "Adds an archive of TorchScript modules.\n\n"
           "Args:\n"
           "    records: the number of its blob.\n"
           "    blocks: of each storage, at the number that the archive has for it.\n"
           "    sizes: how many of each block's bytes the archive needs.\n"
           "    has_storages: whether it holds more storages, itself.\n"
           "    modules: of each its number, the place of the outermost module that holds it, and the submodules' "
           "names\n"
           "        on the way from there.")
      .def("add_program", &add_program, "package"_a, "constants"_a,
           "Adds an AOTInductor package without its constants.\n\n"
           "Args:\n"
           "    package: the number of its blob.\n"
           "    constants: of each, by its name, the dtype, shape, strides, block and offset, as of a tensor.")
      .def(
          "add_metadata",
          [](PythonImageWriter& self, std::string key, std::string value) {
            self.writer().add_metadata(std::move(key), std::move(value));
          },
          "key"_a, "value"_a, "Adds to what safetensors calls the file's metadata.")
      .def(
          "write", &write, "path"_a, "threads"_a, "progress"_a.none(),
          nb::sig("def write(self, path: str | bytes | os.PathLike[str], threads: int, progress: "
                  "collections.abc.Callable[[int, int], object] | None) -> str"),
          "Writes the image, in the place of what is at the path. Nothing is there before it is complete and "
          "durable.\n\n"
          "Args:\n"
          "    path: of the file.\n"
          "    threads: 1 to 64.\n"
          "    progress: called in this thread, about a hundred times, with the bytes written so far and in all. What\n"
          "        it raises ends the writing, as does what the handler of a signal raises (KeyboardInterrupt).\n\n"
          "Returns:\n"
          "    The image's digest.\n\n"
          "Raises:\n"
          "    ValueError: another number of threads.\n"
          "    OSError: the file cannot be written.")
      .def("parts", &parts, "join"_a, "apart"_a,
           nb::sig("def parts(self, join: bool, apart: collections.abc.Sequence[int]) -> "
                   "tuple[str, list[numpy.typing.NDArray[numpy.uint8]]]"),
           "The index of the image in parts, and its segments: the blobs are those that were added. Large blocks are\n"
           "not copied; the segments keep what they lie in.\n\n"
           "Args:\n"
           "    join: whether blocks that touch lie in one segment, where the same roots use them.\n"
           "    apart: blocks with segments of their own, in which no others lie but those that overlap with them.");
}

}  // namespace zerocopy::python
