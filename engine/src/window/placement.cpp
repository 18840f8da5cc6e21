#include "window/placement.h"

#include <algorithm>
#include <string>
#include <utility>

#include "zerocopy/error.h"

namespace zerocopy {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(Error::Code::out_of_bounds, message); }

std::int64_t checked(bool overflows, std::int64_t result) {
  if (overflows) {
    refuse("an array has more bytes, or reaches farther, than 63 bits can count");
  }
  return result;
}

std::int64_t product(std::int64_t one, std::int64_t other) {
  std::int64_t result = 0;
  const bool overflows = __builtin_mul_overflow(one, other, &result);
  return checked(overflows, result);
}

std::int64_t sum(std::int64_t one, std::int64_t other) {
  std::int64_t result = 0;
  const bool overflows = __builtin_add_overflow(one, other, &result);
  return checked(overflows, result);
}

// The bytes of all elements, one after the other; axes of no elements are counted as if they had one.
std::int64_t size_of(std::span<const std::int64_t> shape, std::int64_t item_size) {
  if (item_size < 0) {
    refuse("an array has elements of " + std::to_string(item_size) + " bytes");
  }
  std::int64_t size = item_size;
  for (const std::int64_t length : shape) {
    if (length < 0) {
      refuse("an array has " + std::to_string(length) + " elements along an axis");
    }
    size = product(size, std::max<std::int64_t>(length, 1));
  }
  return size;
}

bool has_no_byte(std::span<const std::int64_t> shape, std::int64_t item_size) {
  return item_size == 0 || std::ranges::find(shape, 0) != shape.end();
}

}  // namespace

std::span<std::byte> part_of(std::span<std::byte> bytes, std::int64_t offset, std::int64_t length) {
  if (offset < 0 || length < 0 || std::cmp_greater(offset, bytes.size()) ||
      std::cmp_greater(length, bytes.size() - static_cast<std::size_t>(offset))) {
    refuse(std::to_string(length) + " bytes at offset " + std::to_string(offset) + " are not within " +
           std::to_string(bytes.size()) + " bytes");
  }
  return bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(length));
}

void check_placement(const Placement& placement, std::int64_t nbytes) {
  if (placement.strides.size() != placement.shape.size()) {
    refuse("an array has " + std::to_string(placement.shape.size()) + " axes and " +
           std::to_string(placement.strides.size()) + " strides");
  }
  size_of(placement.shape, placement.item_size);
  if (placement.offset < 0) {
    refuse("an array begins at offset " + std::to_string(placement.offset));
  }
  if (has_no_byte(placement.shape, placement.item_size)) {
    return;
  }
  std::int64_t lowest = placement.offset;
  std::int64_t highest = placement.offset;
  for (std::size_t axis = 0; axis < placement.shape.size(); ++axis) {
    const std::int64_t reach = product(placement.shape[axis] - 1, placement.strides[axis]);
    std::int64_t& end = reach < 0 ? lowest : highest;
    end = sum(end, reach);
  }
  const std::int64_t last = sum(product(highest, placement.unit), placement.item_size);
  if (lowest < 0 || last > nbytes) {
    refuse("an array reaches from byte " + std::to_string(product(lowest, placement.unit)) + " to byte " +
           std::to_string(last) + " of " + std::to_string(nbytes) + " bytes");
  }
}

void check_fills(std::span<const std::int64_t> shape, std::int64_t item_size, std::int64_t nbytes) {
  const std::int64_t size = size_of(shape, item_size);
  if (const std::int64_t filled = has_no_byte(shape, item_size) ? 0 : size; filled != nbytes) {
    refuse("an array of " + std::to_string(filled) + " bytes is said to fill " + std::to_string(nbytes) + " bytes");
  }
}

}  // namespace zerocopy
