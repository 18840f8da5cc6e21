// Where things lie in some bytes, by a description that came from outside: checked before a byte is looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace zerocopy {

// The `length` bytes from `offset` on. Throws Error::Code::out_of_bounds when one of the two is negative or `bytes`
// does not reach that far.
std::span<std::byte> part_of(std::span<std::byte> bytes, std::int64_t offset, std::int64_t length);

// An array of any number of axes. Its element (i, j, ...) lies at offset + i * strides[0] + j * strides[1] + ... units.
struct Placement {
  std::int64_t offset = 0;
  std::span<const std::int64_t> shape;    // How many elements there are along each axis.
  std::span<const std::int64_t> strides;  // One for each axis. They may be negative or 0.
  std::int64_t unit = 1;                  // Bytes.
  std::int64_t item_size = 1;             // Bytes of an element.
};

// Throws Error::Code::out_of_bounds unless every byte of every element lies within `nbytes` bytes. An array without
// elements, or of elements without bytes, has no byte, wherever it begins. Refused in any case are a negative offset or
// length, more or fewer strides than axes, and what has more bytes than 63 bits can count.
void check_placement(const Placement& placement, std::int64_t nbytes);

// Throws Error::Code::out_of_bounds unless elements of `item_size` bytes, one after the other, fill `nbytes` bytes.
// Refused in any case is what check_placement() refuses.
void check_fills(std::span<const std::int64_t> shape, std::int64_t item_size, std::int64_t nbytes);

}  // namespace zerocopy
