#include "image.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "buffer.h"
#include "gil.h"
#include "text.h"
#include "zerocopy/image.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace zerocopy::python {
namespace {

using ReadOnlyBytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>, nb::c_contig>;

// The class ImageError, which the module keeps.
nb::handle& image_error() {
  static nb::handle error;
  return error;
}

// The code's name where it is an image's fault; none where it is not.
std::optional<const char*> name_of(Error::Code code) {
  switch (code) {
    case Error::Code::not_an_image:
      return "not_an_image";
    case Error::Code::unknown_version:
      return "unknown_version";
    case Error::Code::truncated:
      return "truncated";
    case Error::Code::malformed_header:
      return "malformed_header";
    case Error::Code::malformed_index:
      return "malformed_index";
    case Error::Code::damaged:
      return "damaged";
    case Error::Code::too_large:
      return "too_large";
    case Error::Code::reserved_name:
      return "reserved_name";
    case Error::Code::duplicate_name:
      return "duplicate_name";
    default:
      return std::nullopt;
  }
}

Image open(nb::handle given) {
  const std::string path = path_from(given);
  return with_file(path, [&] { return Image::open(path); });
}

const SharedFile& file_of(const Image& image) {
  if (!image.file()) {
    throw nb::value_error("This image is not a file.");
  }
  return *image.file();
}

// The array holds the Python object that the Image is in, and so the file's mapping.
ReadOnlyBytes as_array(std::span<const std::byte> bytes, nb::handle owner) {
  return ReadOnlyBytes(bytes.data(), {bytes.size()}, owner);
}

ReadOnlyBytes segment(nb::handle_t<Image> self, std::size_t number) {
  return as_array(nb::cast<const Image&>(self).segment(number), self);
}

ReadOnlyBytes blob(nb::handle_t<Image> self, std::size_t number) {
  const auto& image = nb::cast<const Image&>(self);
  std::span<const std::byte> bytes;
  {
    const WithoutGil no_gil;  // Its digest is computed.
    bytes = image.blob(number);
  }
  return as_array(bytes, self);
}

Image assemble(std::string index, const nb::iterable& segments, const nb::iterable& blobs) {
  auto buffers = std::make_shared<Buffers>();
  const auto all = [&](const nb::iterable& exporters) {
    std::vector<std::span<const std::byte>> spans;
    for (const nb::handle exporter : exporters) {
      spans.push_back(buffers->add(exporter));
    }
    return spans;
  };
  ImageParts parts{std::move(index), all(segments), all(blobs), nullptr};
  parts.owner = std::move(buffers);
  const WithoutGil no_gil;
  return Image::assemble(std::move(parts));
}

// An entry by a number from outside, which may be any; negative ones do not count from the end.
template <typename Entry>
const Entry& entry(std::span<const Entry> entries, nb::handle number, const char* what) {
  int overflow = 0;
  const std::int64_t index = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (index == -1 && PyErr_Occurred() != nullptr) {
    throw nb::python_error();
  }
  if (overflow != 0 || index < 0 || index >= std::ssize(entries)) {
    throw nb::value_error(("The image is damaged: " + std::string(what) + " " + nb::str(number).c_str() +
                           " is asked for, and it has " + std::to_string(entries.size()) + ".")
                              .c_str());
  }
  return entries[static_cast<std::size_t>(index)];
}

nb::tuple block(const Image& image, nb::handle number) {
  const Block& block = entry(image.blocks(), number, "block");
  return nb::make_tuple(block.segment, block.offset, block.nbytes);
}

nb::tuple root(const Image& image, nb::handle number) {
  const Root& root = entry(image.roots(), number, "root");
  return nb::make_tuple(root.skeleton, root.buffers, root.archive, root.tensor_blocks, root.segments,
                        root.host_segments);
}

nb::tuple archive(const Image& image, nb::handle number) {
  const Archive& archive = entry(image.archives(), number, "archive");
  nb::dict modules;
  for (const ScriptModule& module : archive.modules) {
    modules[nb::int_(module.number)] = nb::make_tuple(module.place, module.submodules);
  }
  return nb::make_tuple(archive.records, archive.blocks, archive.sizes, archive.has_storages, modules);
}

std::uint32_t package(const Image& image, nb::handle number) {
  return entry(image.programs(), number, "program").package;
}

std::vector<std::string> verify(const Image& image, unsigned threads) {
  std::vector<std::string> sentences;
  for (const Damage& damage : image.verify(threads)) {
    sentences.push_back(std::string(damage.part == Damage::Part::segment ? "Segment " : "Blob ") +
                        std::to_string(damage.number) + " has the digest " + damage.found + " instead of " +
                        damage.expected + ".");
  }
  return sentences;
}

}  // namespace

bool raise_image_error(const Error& error) {
  const std::optional<const char*> code = name_of(error.code());
  if (!code) {
    return false;
  }
  const nb::object raised = image_error()(decoded(error.what()));
  raised.attr("code") = *code;
  PyErr_SetObject(image_error().ptr(), raised.ptr());
  return true;
}

void bind_image(const nb::module_& module) {
  const nb::dict attributes;
  attributes["code"] = "";
  const nb::object error = nb::steal(PyErr_NewExceptionWithDoc(
      (nb::cast<std::string>(module.attr("__name__")) + ".ImageError").c_str(),
      "An image file, or what is to be written to one, is not as docs/image_format.md specifies.\n\n"
      "`code` is the error's name there: not_an_image, damaged, ...",
      PyExc_ValueError, attributes.ptr()));
  module.attr("ImageError") = error;
  image_error() = error;

  nb::class_<Image>(
      module, "Image", nb::is_final(),
      "An image, a file or in parts, open for reading, and checked but for the digests of segments and blobs.\n\n"
      "All members may be used from any thread. Nobody may write to a file in place or shorten it while it\n"
      "is open; it may be removed or replaced by another of its name.")
      .def_static("open", &open, "path"_a, nb::sig("def open(path: str | bytes | os.PathLike[str]) -> Image"),
                  "Opens a file and checks it: its header and its index, not all of its bytes.\n\n"
                  "Raises:\n"
                  "    OSError: it cannot be opened or mapped.\n"
                  "    ImageError: it is no image, or not one that was written as it is.")
      .def_static("assemble", &assemble, "index"_a, "segments"_a, "blobs"_a,
                  nb::sig("def assemble(index: str, segments: collections.abc.Iterable[typing_extensions.Buffer], "
                          "blobs: collections.abc.Iterable[typing_extensions.Buffer]) -> Image"),
                  "Puts an image in parts together and checks its index. It keeps the buffers, and copies none.\n\n"
                  "Raises:\n"
                  "    TypeError: a part has no buffer protocol.\n"
                  "    BufferError, ValueError: one is not contiguous.\n"
                  "    ImageError: the index is not as specified, or not that of these parts.")
      .def_prop_ro(
          "index", [](const Image& self) { return self.index(); }, "The index, as JSON.")
      .def_prop_ro(
          "digest", [](const Image& self) { return self.digest(); },
          "Of the index, which holds those of all segments and blobs: 32 hexadecimal digits (XXH3-128).")
      .def_prop_ro(
          "path", [](const Image& self) { return decoded(file_of(self).name()); },
          "The path that was opened.\n\n"
          "Raises:\n"
          "    ValueError: the image is not a file.")
      .def_prop_ro(
          "nbytes", [](const Image& self) { return file_of(self).bytes().size(); },
          "The file's length in bytes; likewise.")
      .def_prop_ro(
          "producer", [](const Image& self) { return self.producer(); }, "What wrote the image, in words.")
      .def_prop_ro("segment_count", &Image::segment_count)
      .def_prop_ro("blob_count", &Image::blob_count)
      .def_prop_ro("block_count", [](const Image& self) { return self.blocks().size(); })
      .def_prop_ro("root_count", [](const Image& self) { return self.roots().size(); })
      .def_prop_ro("archive_count", [](const Image& self) { return self.archives().size(); })
      .def("block", &block, "number"_a, nb::sig("def block(self, number: int) -> tuple[int | None, int, int]"),
           "The segment that a block lies in (None: it has no bytes), its offset there, and its bytes.\n\n"
           "Raises:\n"
           "    ValueError: there is no block of this number.")
      .def("root", &root, "number"_a,
           nb::sig("def root(self, number: int) -> "
                   "tuple[int, list[int], int | None, list[int], list[int], list[int]]"),
           "A root: the blob of its skeleton, the blocks of its buffers, its archive, the blocks of its tensors, its\n"
           "segments, and those of them that the host's memory must have.\n\n"
           "Raises:\n"
           "    ValueError: there is no root of this number.")
      .def("archive", &archive, "number"_a,
           nb::sig("def archive(self, number: int) -> "
                   "tuple[int, list[int], list[int], bool, dict[int, tuple[int, list[str]]]]"),
           "An archive: the blob of its records, the block and the size of each storage, whether it has storages of\n"
           "its own, and the place of each module and the names on the way to it.\n\n"
           "Raises:\n"
           "    ValueError: there is no archive of this number.")
      .def("package", &package, "number"_a, nb::sig("def package(self, number: int) -> int"),
           "The blob of a compiled program's package.\n\n"
           "Raises:\n"
           "    ValueError: there is no program of this number.")
      .def_prop_ro(
          "metadata",
          [](const Image& self) {
            nb::dict metadata;
            for (const auto& [key, value] : self.metadata()) {
              metadata[key.c_str()] = value;
            }
            return metadata;
          },
          nb::sig("def metadata(self) -> dict[str, str]"),
          "What users of the writer have put into the file's metadata.")
      .def("segment", &segment, "number"_a,
           nb::sig("def segment(self, number: int) -> numpy.typing.NDArray[numpy.uint8]"),
           "A segment's bytes, shared with everybody who has the file open: shape (bytes,), read-only.\n\n"
           "The array keeps the Image, and so the file's mapping.\n\n"
           "Raises:\n"
           "    IndexError: there is no such segment.")
      .def("blob", &blob, "number"_a, nb::sig("def blob(self, number: int) -> numpy.typing.NDArray[numpy.uint8]"),
           "A blob's bytes, likewise, compared with their digest when they are first asked for.\n\n"
           "Raises:\n"
           "    IndexError: there is no such blob.\n"
           "    ImageError: its bytes are not those that were written.")
      .def("verify", &verify, "threads"_a = 1, nb::call_guard<WithoutGil>(),
           "Reads all segments and blobs and compares them with their digests.\n\n"
           "Args:\n"
           "    threads: 1 to 64.\n\n"
           "Returns:\n"
           "    A sentence for each that is damaged; none when the file is sound.\n\n"
           "Raises:\n"
           "    ValueError: another number of threads.");
}

}  // namespace zerocopy::python
