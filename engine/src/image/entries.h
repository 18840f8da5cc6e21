// What the header of every safetensors file has: the entries of tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "image/json.h"

namespace zerocopy {

// Some bytes of the data: offsets count from its start.
struct Range {
  std::uint64_t offset = 0;
  std::uint64_t nbytes = 0;

  friend bool operator==(const Range&, const Range&) = default;
};

// A tensor's entry.
struct TensorEntry {
  std::string_view name;
  std::string_view dtype;
  std::vector<std::uint64_t> shape;
  Range range;
};

namespace entries {

// The header's text, given all of a file's bytes: a copy, since somebody may write to the file. The data begins
// format::kLengthBytes behind its size. Throws Error: not_an_image when this is no safetensors file; truncated.
std::string header_text(std::span<const std::byte> file);

// An entry, whose elements fill its range. Throws Error: malformed_header, too_large.
TensorEntry read(std::string_view name, const json::Value& value);

// Checks that all entries together are the data of that length, without a gap or a byte twice. Throws Error:
// malformed_header; truncated when the data has another length.
void check_cover(std::vector<Range> ranges, std::uint64_t nbytes);

}  // namespace entries
}  // namespace zerocopy
