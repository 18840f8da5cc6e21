// Addresses in whole pages.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace zerocopy {

inline std::uintptr_t address_of(const std::byte* byte) { return std::bit_cast<std::uintptr_t>(byte); }

// The addresses [begin, end), multiples of the page size.
struct PageRange {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;

  // The pages that hold the bytes. A range that ends in the last page of the address space is too long for this; the
  // kernel has that page for itself.
  static PageRange around(std::span<const std::byte> bytes, std::size_t page_size) {
    const std::uintptr_t begin = address_of(bytes.data());
    const std::uintptr_t end = begin + bytes.size();
    return {begin / page_size * page_size, (end + page_size - 1) / page_size * page_size};
  }
};

}  // namespace zerocopy
