// An array is taken exactly when each of its elements lies within the bytes, however the numbers are.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "input.h"
#include "window/placement.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

__extension__ using Wide = __int128;

constexpr Wide kLargest = INT64_MAX;

struct Array {
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> strides{};
  std::size_t axes = 0;
  std::int64_t item_size = 0;
};

bool counts(Wide number) { return -kLargest - 1 <= number && number <= kLargest; }

// In numbers of any size: the bytes of all elements one after the other, axes without elements passed over; -1 for what
// no 63 bits count.
Wide size_of(const Array& array) {
  Wide size = array.item_size;
  for (std::size_t axis = 0; axis < array.axes; ++axis) {
    size *= array.shape.at(axis) == 0 ? 1 : array.shape.at(axis);
    if (array.shape.at(axis) < 0 || !counts(size)) {
      return -1;
    }
  }
  return size;
}

bool has_bytes(const Array& array) {
  bool has = array.item_size != 0;
  for (std::size_t axis = 0; axis < array.axes; ++axis) {
    has = has && array.shape.at(axis) != 0;
  }
  return has;
}

bool is_within(const Array& array, std::int64_t offset, std::int64_t unit, std::int64_t nbytes) {
  if (array.item_size < 0 || offset < 0 || size_of(array) < 0) {
    return false;
  }
  if (!has_bytes(array)) {
    return true;
  }
  // Four axes of 2**126 each would be too many for these numbers; what is that far out is refused at once.
  Wide lowest = offset;
  Wide highest = offset;
  for (std::size_t axis = 0; axis < array.axes; ++axis) {
    const Wide reach = Wide{array.shape.at(axis) - 1} * array.strides.at(axis);
    (reach < 0 ? lowest : highest) += reach;
    if (!counts(reach) || !counts(lowest) || !counts(highest)) {
      return false;
    }
  }
  const Wide end = highest * unit + array.item_size;
  return lowest >= 0 && counts(highest * unit) && end <= nbytes;
}

template <typename Check>
bool is_taken(Check check) {
  try {
    check();
  } catch (const Error& error) {
    if (error.code() != Error::Code::out_of_bounds) {
      std::abort();
    }
    return false;
  }
  return true;
}

void agree(bool one, bool other) {
  if (one != other) {
    std::abort();
  }
}

}  // namespace
}  // namespace zerocopy

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using zerocopy::is_taken;
  zerocopy::fuzz::Input input(data, size);
  zerocopy::Array array;
  array.axes = input.byte() % 5U;
  array.item_size = input.interesting();
  const std::int64_t offset = input.interesting();
  const std::int64_t unit = 1 + input.byte() % 16;
  const std::int64_t nbytes = input.interesting();
  for (std::size_t axis = 0; axis < array.axes; ++axis) {
    array.shape.at(axis) = input.interesting();
    array.strides.at(axis) = input.interesting();
  }
  const std::span<const std::int64_t> shape = std::span(array.shape).first(array.axes);
  const std::span<const std::int64_t> strides = std::span(array.strides).first(array.axes);
  zerocopy::agree(is_taken([&] { zerocopy::check_placement({offset, shape, strides, unit, array.item_size}, nbytes); }),
                  zerocopy::is_within(array, offset, unit, nbytes));
  zerocopy::agree(is_taken([&] { zerocopy::check_fills(shape, array.item_size, nbytes); }),
                  array.item_size >= 0 && zerocopy::size_of(array) >= 0 &&
                      (zerocopy::has_bytes(array) ? zerocopy::size_of(array) : 0) == nbytes);
  std::array<std::byte, 64> bytes{};
  const std::int64_t length = input.interesting();
  zerocopy::agree(is_taken([&] {
                    const std::span<std::byte> part = zerocopy::part_of(bytes, offset, length);
                    if (part.data() != bytes.data() + offset || part.size() != static_cast<std::size_t>(length)) {
                      std::abort();
                    }
                  }),
                  offset >= 0 && length >= 0 && zerocopy::Wide{offset} + length <= zerocopy::Wide{bytes.size()});
  return 0;
}
