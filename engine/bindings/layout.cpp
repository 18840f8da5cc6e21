#include "layout.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "image/format.h"
#include "image/layout.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace zerocopy::python {
namespace {

using Address = std::uintptr_t;
using Numbers = std::vector<std::uint32_t>;

Layout layout_of(const std::vector<std::tuple<Address, std::uint64_t, Numbers>>& blocks, bool join) {
  std::vector<Layout::Source> sources;
  sources.reserve(blocks.size());
  for (const auto& [address, nbytes, roots] : blocks) {
    sources.push_back({{std::bit_cast<const std::byte*>(address), nbytes}, roots});
  }
  return Layout(sources, join);
}

std::vector<std::pair<std::optional<std::uint32_t>, std::uint64_t>> places(const Layout& layout) {
  std::vector<std::pair<std::optional<std::uint32_t>, std::uint64_t>> all;
  all.reserve(layout.places().size());
  for (const auto& [segment, offset] : layout.places()) {
    all.emplace_back(segment, offset);
  }
  return all;
}

// The runs that are not packed come first.
std::size_t count_of_large(const Layout::Segment& segment) {
  const auto is_packed = [](const Layout::Run& run) { return run.bytes.size() <= format::kLargeRun; };
  return static_cast<std::size_t>(std::ranges::find_if(segment.runs, is_packed) - segment.runs.begin());
}

std::vector<std::vector<std::tuple<std::uint64_t, Address, std::uint64_t>>> large_runs(const Layout& layout) {
  std::vector<std::vector<std::tuple<std::uint64_t, Address, std::uint64_t>>> all;
  for (const Layout::Segment& segment : layout.segments()) {
    auto& runs = all.emplace_back();
    for (const Layout::Run& run : std::span(segment.runs).first(count_of_large(segment))) {
      runs.emplace_back(run.offset, std::bit_cast<Address>(run.bytes.data()), run.bytes.size());
    }
  }
  return all;
}

// The array owns the copy.
std::optional<std::pair<std::uint64_t, nb::object>> packed(const Layout& layout, std::size_t number) {
  if (number >= layout.segments().size()) {
    throw nb::index_error("There is no such segment.");
  }
  const Layout::Segment& segment = layout.segments()[number];
  const std::span small = std::span(segment.runs).subspan(count_of_large(segment));
  if (small.empty()) {
    return std::nullopt;
  }
  const std::uint64_t begin = small.front().offset;
  const std::size_t nbytes = aligned(small.back().offset + small.back().bytes.size(), format::kAlignment) - begin;
  auto copy = std::make_unique<std::vector<std::byte>>(nbytes);
  for (const Layout::Run& run : small) {
    std::ranges::copy(run.bytes, copy->begin() + static_cast<std::ptrdiff_t>(run.offset - begin));
  }
  std::byte* const first = copy->data();
  const nb::capsule owner(copy.get(), [](void* held) noexcept {
    const std::unique_ptr<std::vector<std::byte>> last(static_cast<std::vector<std::byte>*>(held));
  });
  [[maybe_unused]] const auto* const the_capsules = copy.release();
  const nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>, nb::c_contig> array(first, {nbytes}, owner);
  return std::pair(begin, nb::cast(array));
}

}  // namespace

// NOLINTNEXTLINE(misc-const-correctness): what is added to a module changes it, whatever nanobind's signatures say.
void bind_layout(nb::module_& module) {
  nb::class_<Layout>(
      module, "Layout",
      "How blocks of bytes lie in the segments of an image.\n\n"
      "Blocks that overlap in memory form a run. A segment holds the runs that the same roots use: first,\n"
      "each at a page, those of more than 64 KiB, then the others, packed. It keeps no memory alive.\n\n"
      "Args:\n"
      "    blocks: of each its address, its bytes, and the numbers of the roots that use it, ascending.\n"
      "    join: whether blocks that touch form a run as well, where the same roots use them.")
      .def(
          "__init__",
          [](Layout* self, const std::vector<std::tuple<Address, std::uint64_t, Numbers>>& blocks, bool join) {
            std::construct_at(self, layout_of(blocks, join));
          },
          "blocks"_a, "join"_a = false)
      .def_prop_ro("places", &places, "Of each block its segment, None for one without bytes, and its offset there.")
      .def_prop_ro(
          "roots",
          [](const Layout& self) {
            std::vector<Numbers> all;
            for (const Layout::Segment& segment : self.segments()) {
              all.push_back(segment.roots);
            }
            return all;
          },
          "Of each segment the numbers of the roots that use it, ascending.")
      .def_prop_ro("large_runs", &large_runs,
                   "Of each segment the runs that are not packed: offset in the segment, address, bytes; ascending.")
      .def("packed", &packed, "segment"_a,
           nb::sig("def packed(self, segment: int) -> tuple[int, numpy.typing.NDArray[numpy.uint8]] | None"),
           "The offset of a segment's first packed run, and a copy of all of them as they lie there.\n\n"
           "None: the segment has none.");
}

}  // namespace zerocopy::python
