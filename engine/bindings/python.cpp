// The Python module ray_zerocopy._engine: conversions between Python's objects and the engine's, and nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "buffer.h"
#include "checkpoint.h"
#include "gil.h"
#include "image.h"
#include "image/digest.h"
#include "image_writer.h"
#include "snapshot.h"
#include "system/source.h"
#include "text.h"
#include "window/placement.h"
#include "zerocopy/error.h"
#include "zerocopy/view.h"
#include "zerocopy/view_stats.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace zerocopy::python {
namespace {

using Bytes = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>, nb::c_contig>;
using AddressRange = std::pair<std::uintptr_t, std::uintptr_t>;

// Bad arguments are a ValueError (an index: IndexError), as is an image that is bad (ImageError); what the operating
// system refused is an OSError with its errno, and what has to do with a GPU is a RuntimeError.
void raise(const Error& error) {
  if (raise_image_error(error)) {
    return;
  }
  switch (error.code()) {
    case Error::Code::no_such_segment:
    case Error::Code::no_such_block:
    case Error::Code::no_such_blob:
      PyErr_SetString(PyExc_IndexError, error.what());
      return;
    case Error::Code::bad_segment:
    case Error::Code::unmapped_segment:
    case Error::Code::out_of_bounds:
    case Error::Code::bad_thread_count:
    case Error::Code::ambiguous_path:
      PyErr_SetObject(PyExc_ValueError, decoded(error.what()).ptr());
      return;
    case Error::Code::no_device_driver:
    case Error::Code::no_such_device:
    case Error::Code::unfit_device:
    case Error::Code::read_only_memory:
    case Error::Code::device_call:
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return;
    default:
      break;
  }
  PyErr_SetObject(PyExc_OSError, nb::make_tuple(error.system_error(), error.what()).ptr());
}

// What kept bytes from being shared.
const char* name_of(Error::Code code) noexcept {
  switch (code) {
    case Error::Code::not_shared:
      return "not_shared";
    case Error::Code::malformed_maps:
      return "malformed_maps";
    case Error::Code::not_held_open:
      return "not_held_open";
    case Error::Code::not_mappable:
      return "not_mappable";
    default:
      return "system_call";
  }
}

// A View whose source is Python's. Ownership: the View holds the buffers of all segments; they are given back, under
// the GIL, when it goes (as a Source has it). An array made from a segment holds the Python object that this is, and so
// the View: neither buffers nor mappings go before the last array.
class PythonView {
 public:
  explicit PythonView(const nb::iterable& segments) { open(segments); }

  PythonView(PythonView&&) = delete;
  PythonView& operator=(PythonView&&) = delete;
  PythonView(const PythonView&) = delete;
  PythonView& operator=(const PythonView&) = delete;

  // Runs as the Python object goes, so with the GIL; unmapping and joining threads may take a while, so without it.
  ~PythonView() {
    const nb::error_scope keep_raised_exception;
    const WithoutGil no_gil;
    view_ = nullptr;
  }

  [[nodiscard]] View& view() const noexcept { return *view_; }
  [[nodiscard]] Buffers& buffers() const noexcept { return *buffers_; }

 private:
  void open(const nb::iterable& segments) {
    auto buffers = std::make_shared<Buffers>();
    buffers_ = buffers.get();
    std::vector<std::span<const std::byte>> spans;
    for (const nb::handle exporter : segments) {
      spans.push_back(buffers->add(exporter));
    }
    const WithoutGil no_gil;
    view_ = std::make_unique<View>(spans, std::move(buffers));
  }

  std::unique_ptr<View> view_;
  Buffers* buffers_ = nullptr;  // The View's.
};

std::string digest(nb::handle exporter) {
  const Buffer buffer(exporter);
  const WithoutGil no_gil;
  return digest_of(buffer.bytes());
}

// The array holds `owner`, and so what keeps the bytes in place.
Bytes as_array(std::span<std::byte> bytes, nb::handle owner) { return Bytes(bytes.data(), {bytes.size()}, owner); }

Bytes segment(nb::handle_t<PythonView> self, std::size_t index) {
  return as_array(nb::cast<PythonView&>(self).view().segment(index), self);
}

// Numbers that describe where things lie may be any; what no 64 bits hold lies nowhere.
std::int64_t number(nb::handle value) {
  int overflow = 0;
  const std::int64_t number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow != 0) {
    throw nb::value_error("A number that says where something lies has more than 64 bits.");
  }
  if (number == -1 && PyErr_Occurred() != nullptr) {
    throw nb::python_error();
  }
  return number;
}

std::vector<std::int64_t> numbers(const nb::tuple& values) {
  std::vector<std::int64_t> numbers;
  numbers.reserve(values.size());
  for (const nb::handle value : values) {
    numbers.push_back(number(value));
  }
  return numbers;
}

Bytes part(nb::handle_t<PythonView> self, std::size_t index, nb::handle offset, nb::handle nbytes) {
  return as_array(part_of(nb::cast<PythonView&>(self).view().segment(index), number(offset), number(nbytes)), self);
}

// A DLPack capsule (https://dmlc.github.io/dlpack): what an array library makes an array of its own from.
nb::ndarray<> tensor(nb::handle_t<PythonView> self, std::size_t index, nb::handle offset, nb::handle nbytes,
                     const nb::tuple& shape, std::uint8_t type_code, std::uint8_t type_bits) {
  const std::span<std::byte> bytes =
      part_of(nb::cast<PythonView&>(self).view().segment(index), number(offset), number(nbytes));
  const std::vector<std::int64_t> lengths = numbers(shape);
  check_fills(lengths, type_bits / CHAR_BIT, std::ssize(bytes));
  const std::vector<std::size_t> unsigned_lengths(lengths.begin(), lengths.end());
  return {bytes.data(), lengths.size(), unsigned_lengths.data(), self, nullptr, {type_code, type_bits, 1}};
}

void check_array(nb::handle nbytes, nb::handle item_size, nb::handle offset, const nb::tuple& shape,
                 const nb::tuple& strides, nb::handle unit) {
  const std::vector<std::int64_t> lengths = numbers(shape);
  const std::vector<std::int64_t> steps = numbers(strides);
  check_placement({number(offset), lengths, steps, number(unit), number(item_size)}, number(nbytes));
}

// Holds what an array's bytes come from, until the last array over them goes.
nb::capsule capsule_of(std::shared_ptr<const void> held) {
  auto source = std::make_unique<Source>(std::move(held));
  const nb::capsule owner(source.get(),
                          [](void* kept) noexcept { const std::unique_ptr<Source> last(static_cast<Source*>(kept)); });
  [[maybe_unused]] const Source* const the_capsules = source.release();
  return owner;
}

// The array holds a capsule, which holds the exporter's buffer.
Bytes borrow(nb::handle exporter, nb::handle offset, nb::handle nbytes) {
  auto buffer = std::make_shared<Buffer>(exporter);
  const std::span<const std::byte> all = buffer->bytes();
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): the array is for reading only, which its flags cannot say.
  auto* const first = const_cast<std::byte*>(all.data());
  const std::span<std::byte> bytes = part_of({first, all.size()}, number(offset), number(nbytes));
  return as_array(bytes, capsule_of(std::move(buffer)));
}

// The array holds a capsule, which holds all buffers. None where one does not begin where the one before it ends.
std::optional<nb::object> join(const nb::sequence& exporters) {
  auto buffers = std::make_shared<Buffers>();
  std::span<const std::byte> all;
  for (const nb::handle exporter : exporters) {
    const std::span<const std::byte> bytes = buffers->add(exporter);
    if (all.empty()) {
      all = bytes;
    } else if (std::to_address(all.end()) == bytes.data()) {
      all = {all.data(), all.size() + bytes.size()};
    } else if (!bytes.empty()) {
      return std::nullopt;
    }
  }
  const nb::capsule owner = capsule_of(std::move(buffers));
  using ReadOnly = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>, nb::c_contig>;
  const std::size_t shape[] = {all.size()};  // NOLINT(cppcoreguidelines-avoid-c-arrays, modernize-avoid-c-arrays)
  return nb::cast(ReadOnly(all.data(), 1, shape, owner));
}

using Tensor = nb::ndarray<nb::device::cpu>;

// Throws ValueError for tensors that are more, or other, than their elements one after the other.
std::span<std::byte> elements(const Tensor& tensor) {
  std::int64_t stride = 1;
  for (std::size_t axis = tensor.ndim(); axis-- > 0;) {
    if (tensor.shape(axis) > 1 && tensor.stride(axis) != stride) {
      throw nb::value_error("The tensor is not contiguous.");
    }
    stride *= static_cast<std::int64_t>(tensor.shape(axis));
  }
  if (tensor.dtype().lanes != 1 || tensor.dtype().bits % CHAR_BIT != 0 || tensor.data() == nullptr) {
    throw nb::value_error("The tensor has no bytes of its own for each element.");
  }
  return {static_cast<std::byte*>(tensor.data()), tensor.nbytes()};
}

nb::tuple tensor_bytes(const Tensor& tensor, std::size_t at_most) {
  const std::span<std::byte> bytes = elements(tensor);
  if (bytes.size() > at_most) {
    throw nb::value_error("The tensor is too large.");
  }
  nb::list shape;
  for (std::size_t axis = 0; axis < tensor.ndim(); ++axis) {
    shape.append(tensor.shape(axis));
  }
  const nb::dlpack::dtype type = tensor.dtype();
  return nb::make_tuple(nb::bytes(bytes.data(), bytes.size()), type.code, type.bits, nb::tuple(shape),
                        std::bit_cast<std::uintptr_t>(bytes.data()));
}

void fill_tensor(const Tensor& tensor, nb::handle data) {
  const std::span<std::byte> bytes = elements(tensor);
  const Buffer source(data);
  if (bytes.size() != source.bytes().size()) {
    throw nb::value_error("The tensor is of another size.");
  }
  constexpr std::size_t while_others_wait = std::size_t{64} << 10U;
  std::optional<WithoutGil> no_gil;
  if (bytes.size() > while_others_wait) {
    no_gil.emplace();
  }
  std::ranges::copy(source.bytes(), bytes.begin());
}

NB_MODULE(_engine, module) {
  module.doc() =
      "Private, writable windows on bytes that processes share. See engine/include/zerocopy for the contracts.";

  // Weights that are alive when the interpreter ends keep their View alive: that is no leak.
  nb::set_leak_warnings(false);

  // A thread that wants the GIL while the interpreter ends is ended by force.
  nb::module_::import_("atexit").attr("register")(
      nb::cpp_function([] { Source::stop_waiting(); }, nb::call_guard<WithoutGil>()));

  nb::register_exception_translator([](const std::exception_ptr& thrown, void* /*payload*/) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      raise(error);
    }
  });

  nb::class_<ViewStats>(module, "ViewStats", nb::is_final(),
                        "What a View maps and what of it is this process's own. All figures are bytes; those of pages "
                        "count whole ones.")
      .def_ro("nbytes", &ViewStats::nbytes, "The lengths of all segments together.")
      .def_ro("shared_bytes", &ViewStats::shared_bytes, "Mapped pages that this process has not written to.")
      .def_ro("copied_bytes", &ViewStats::copied_bytes, "Of nbytes, what is a private copy.")
      .def_ro("private_copy_reason", &ViewStats::private_copy_reason, "Why; empty when nothing was copied.")
      .def_ro("diverged_bytes", &ViewStats::diverged_bytes, "Mapped pages that this process has written to.")
      .def_ro("resident_bytes", &ViewStats::resident_bytes, "Mapped pages that are in this process's page table.")
      .def_ro("page_table_bytes", &ViewStats::page_table_bytes, "What the page table takes for them: an estimate.");

  nb::class_<PageUse>(module, "PageUse", nb::is_final(),
                      "What a process has of some of its mapped pages. All figures are bytes.")
      .def_ro("resident_bytes", &PageUse::resident_bytes, "Pages in its page table.")
      .def_ro("own_bytes", &PageUse::own_bytes, "Pages that it has written to, in memory or in swap.")
      .def_ro("page_table_bytes", &PageUse::page_table_bytes, "What the page table takes for them: an estimate.");

  nb::class_<PythonView>(
      module, "View", nb::is_final(), nb::is_weak_referenceable(),
      "A private, writable window on bytes that other processes may share.\n\n"
      "Reads go to the shared pages; the first write to a page gives this process a page of its own, "
      "by the kernel. Nobody else ever sees a write. All members may be used from any thread.")
      .def(nb::init<nb::iterable>(), "segments"_a,
           nb::sig("def __init__(self, segments: collections.abc.Iterable[typing_extensions.Buffer]) -> None"),
           "Opens a window on each segment.\n\n"
           "Args:\n"
           "    segments: C-contiguous objects with the buffer protocol, read-only ones and empty ones too. Their\n"
           "        buffers are kept until the View and all its arrays are gone, and every process forked meanwhile "
           "has\n"
           "        ended; they must not change for as long. A forked child never gives them back. Those\n"
           "        that lie in shared memory whose file can be found are mapped; the others are copied (see\n"
           "        private_copy_reason).\n\n"
           "Raises:\n"
           "    TypeError: a segment has no buffer protocol.\n"
           "    BufferError, ValueError: a segment is not contiguous, or its memory cannot be read.\n"
           "    MemoryError: there is no room for a copy.")
      .def("segment", &segment, "index"_a,
           nb::sig("def segment(self, index: int) -> numpy.typing.NDArray[numpy.uint8]"),
           "The View's bytes for a segment: shape (bytes,), writable. The array keeps the View alive.\n\n"
           "Raises:\n"
           "    IndexError: there is no such segment.")
      .def("part", &part, "segment"_a, "offset"_a, "nbytes"_a,
           nb::sig("def part(self, segment: int, offset: int, nbytes: int) -> numpy.typing.NDArray[numpy.uint8]"),
           "Some of a segment's bytes: shape (nbytes,), writable. The array keeps the View alive.\n\n"
           "Raises:\n"
           "    IndexError: there is no such segment.\n"
           "    ValueError: these bytes are not within the segment.")
      .def("tensor", &tensor, "segment"_a, "offset"_a, "nbytes"_a, "shape"_a, "type_code"_a, "type_bits"_a,
           nb::sig("def tensor(self, segment: int, offset: int, nbytes: int, shape: tuple[int, ...], type_code: int, "
                   "type_bits: int) -> typing_extensions.CapsuleType"),
           "A contiguous tensor in a segment, as a DLPack capsule; what is made of it keeps the View alive.\n\n"
           "Args:\n"
           "    segment: the index of the segment.\n"
           "    offset: bytes from its start.\n"
           "    nbytes: all of the tensor's bytes.\n"
           "    shape: elements.\n"
           "    type_code, type_bits: of an element, as DLPack has them (DLDataTypeCode).\n\n"
           "Raises:\n"
           "    IndexError: there is no such segment.\n"
           "    ValueError: these bytes are not within the segment, or a tensor of this shape and type has another "
           "size.")
      .def(
          "keep", [](const PythonView& self, nb::handle object) { self.buffers().keep(object); }, "object"_a,
          nb::sig("def keep(self, object: object) -> None"),
          "Keeps an object for as long as the segments' buffers: what those need to stay unchanged.")
      .def(
          "__len__", [](const PythonView& self) { return self.view().size(); }, "The number of segments.")
      .def(
          "addresses",
          [](const PythonView& self) {
            std::vector<AddressRange> ranges;
            for (std::size_t index = 0; index < self.view().size(); ++index) {
              const std::span<std::byte> bytes = self.view().segment(index);
              const auto first = std::bit_cast<std::uintptr_t>(bytes.data());
              ranges.emplace_back(first, first + bytes.size());
            }
            return ranges;
          },
          "Where the segments are: of each the first and the last (exclusive) address.")
      .def_prop_ro(
          "nbytes", [](const PythonView& self) { return self.view().nbytes(); },
          "The lengths of all segments together, in bytes.")
      .def_prop_ro(
          "copied_bytes", [](const PythonView& self) { return self.view().copied_bytes(); },
          "How many of nbytes are private copies.")
      .def_prop_ro(
          "private_copy_reason",
          [](const PythonView& self) -> std::optional<std::string> {
            const std::string& reason = self.view().private_copy_reason();
            return reason.empty() ? std::nullopt : std::optional(reason);
          },
          "Why not all segments are shared: one sentence, about one that isn't. None when all are.")
      .def_prop_ro(
          "private_copy_code",
          [](const PythonView& self) {
            const std::optional<Error::Code> code = self.view().private_copy_code();
            return code ? std::optional(name_of(*code)) : std::nullopt;
          },
          "The same in a word, without numbers: not_shared, malformed_maps, not_held_open, not_mappable or "
          "system_call.")
      .def(
          "prefault", [](const PythonView& self, unsigned threads) { self.view().prefault(threads); }, "threads"_a = 1,
          nb::call_guard<WithoutGil>(),
          "Starts to take the page faults of all mapped pages in background threads, and returns.\n\n"
          "Does nothing while that is still going on. The threads end with the View.\n\n"
          "Args:\n"
          "    threads: 1 to 64.\n\n"
          "Raises:\n"
          "    ValueError: another number of threads.\n"
          "    OSError: no thread could be started.")
      .def(
          "wait_prefault", [](const PythonView& self) { self.view().wait_prefault(); }, nb::call_guard<WithoutGil>(),
          "Returns when no prefault is under way.")
      .def(
          "diverged_bytes", [](const PythonView& self) { return self.view().diverged_bytes(); },
          nb::call_guard<WithoutGil>(),
          "Bytes of the pages that this process has made its own in the mapped segments, by writing to them.\n\n"
          "Private copies count nothing here (see copied_bytes).\n\n"
          "Raises:\n"
          "    OSError: the kernel does not tell.")
      .def(
          "stats", [](const PythonView& self) { return self.view().stats(); }, nb::call_guard<WithoutGil>(),
          "What the View maps and what of it is this process's own, now.\n\n"
          "Raises:\n"
          "    OSError: the kernel does not tell.")
      .def(
          "mapped_pages",
          [](const PythonView& self) {
            std::vector<AddressRange> ranges;
            for (const std::span<const std::byte> pages : self.view().mapped_pages()) {
              const auto first = std::bit_cast<std::uintptr_t>(pages.data());
              ranges.emplace_back(first, first + pages.size());
            }
            return ranges;
          },
          "Where the mapped segments are, in whole pages: of each mapping the first and the last (exclusive) address.")
      .def(
          "watch_writes", [](const PythonView& self) { return self.view().watch_writes(); },
          nb::call_guard<WithoutGil>(),
          "Has the kernel note writes from now on, so that diverged_bytes takes a tenth of the time.\n\n"
          "Pages that are not in the page table yet are slower to come by from now on: prefault first. Returns "
          "whether\n"
          "the kernel does: False where it cannot, and where this process has pages of its own already (reset "
          "first).\n\n"
          "Raises:\n"
          "    OSError: the kernel does not tell which pages are this process's own.")
      .def(
          "reset", [](const PythonView& self) { self.view().reset(); }, nb::call_guard<WithoutGil>(),
          "Back to the shared content; what was written is lost, and all arrays stay good.\n\n"
          "Raises:\n"
          "    OSError: the kernel refused.");

  module.def(
      "page_use", [](int process, const std::vector<AddressRange>& ranges) { return page_use(process, ranges); },
      "process"_a, "ranges"_a, nb::call_guard<WithoutGil>(),
      "What a process has of the pages at some addresses.\n\n"
      "Args:\n"
      "    process: its number.\n"
      "    ranges: of each the first and the last (exclusive) address.\n\n"
      "Raises:\n"
      "    OSError: there is no such process, this one may not look into it, or the kernel does not tell.");

  module.def(
      "borrow", &borrow, "buffer"_a, "offset"_a, "nbytes"_a,
      nb::sig("def borrow(buffer: typing_extensions.Buffer, offset: int, nbytes: int) -> "
              "numpy.typing.NDArray[numpy.uint8]"),
      "An array over some of the caller's own bytes: shape (nbytes,), nothing copied. The array keeps the buffer.\n\n"
      "It is flagged writable, so that torch takes it without a warning, but is for reading only: the bytes may\n"
      "be everybody's, or read-only to the kernel.\n\n"
      "Raises:\n"
      "    TypeError: the object has no buffer protocol.\n"
      "    BufferError, ValueError: it is not contiguous.\n"
      "    ValueError: these bytes are not within the buffer.");

  module.def(
      "join", &join, "buffers"_a,
      nb::sig("def join(buffers: collections.abc.Sequence[typing_extensions.Buffer]) -> "
              "numpy.typing.NDArray[numpy.uint8] | None"),
      "A read-only array over buffers that lie in memory one after the other; it keeps them. Nothing is copied.\n\n"
      "None: they do not.\n\n"
      "Raises:\n"
      "    TypeError: an object has no buffer protocol.\n"
      "    BufferError, ValueError: one is not contiguous.");

  module.def("digest", &digest, "buffer"_a, nb::sig("def digest(buffer: typing_extensions.Buffer) -> str"),
             "The XXH3-128 of a buffer's bytes, as image files have it: 32 hexadecimal digits. Other threads run "
             "meanwhile.\n\n"
             "It tells accidents, not forgeries.\n\n"
             "Raises:\n"
             "    TypeError: the object has no buffer protocol.\n"
             "    BufferError, ValueError: it is not contiguous.");

  module.def("check_array", &check_array, "nbytes"_a, "item_size"_a, "offset"_a, "shape"_a, "strides"_a, "unit"_a,
             nb::sig("def check_array(nbytes: int, item_size: int, offset: int, shape: tuple[int, ...], "
                     "strides: tuple[int, ...], unit: int) -> None"),
             "Checks that an array lies within its memory, from the lowest byte of its elements to the highest.\n\n"
             "Args:\n"
             "    nbytes: of the memory.\n"
             "    item_size: bytes of an element.\n"
             "    offset: of the first element, in units.\n"
             "    shape: elements.\n"
             "    strides: in units; they may be negative.\n"
             "    unit: bytes that offset and strides count.\n\n"
             "Raises:\n"
             "    ValueError: it does not, or a number has no meaning.");
  module.def(
      "check_whole_array",
      [](nb::handle nbytes, nb::handle item_size, const nb::tuple& shape) {
        check_fills(numbers(shape), number(item_size), number(nbytes));
      },
      "nbytes"_a, "item_size"_a, "shape"_a,
      nb::sig("def check_whole_array(nbytes: int, item_size: int, shape: tuple[int, ...]) -> None"),
      "Checks that the elements of an array, one after the other, fill its memory.\n\n"
      "Raises:\n"
      "    ValueError: they do not, or a number has no meaning.");

  module.def("tensor_bytes", &tensor_bytes, "tensor"_a, "at_most"_a,
             nb::sig("def tensor_bytes(tensor: typing_extensions.CapsuleType, at_most: int) -> "
                     "tuple[bytes, int, int, tuple[int, ...], int]"),
             "A copy of the elements of a small tensor, given as a DLPack capsule, which is used up.\n\n"
             "Returns:\n"
             "    The bytes, their DLPack type's code and bits, the shape, and the address that they were at.\n\n"
             "Raises:\n"
             "    ValueError: the tensor has more than at_most bytes, none, or is not contiguous.\n"
             "    TypeError: it is not in the host's memory.");
  module.def("fill_tensor", &fill_tensor, "tensor"_a, "data"_a,
             nb::sig("def fill_tensor(tensor: typing_extensions.CapsuleType, data: typing_extensions.Buffer) -> None"),
             "Gives a contiguous tensor, as a DLPack capsule, its elements from a buffer of their bytes.\n\n"
             "Raises:\n"
             "    ValueError: the tensor is of another size, or is not contiguous.\n"
             "    TypeError: it is not in the host's memory; or data has no buffer protocol.\n"
             "    BufferError: data is not contiguous.");
  bind_image(module);
  bind_checkpoint(module);
  bind_image_writer(module);
  bind_snapshot(module);
}

}  // namespace
}  // namespace zerocopy::python
