// The index of an image.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "image/header.h"
#include "zerocopy/image.h"

namespace zerocopy {

// A segment or a blob.
struct Part {
  Range range;
  std::string digest;  // Empty where nobody has computed it, which an image in parts may do without.
};

// What the index of an image says.
struct Index {
  std::vector<Part> segments;
  std::vector<Block> blocks;
  std::vector<Tensor> tensors;
  std::vector<std::uint32_t> by_name;  // The tensors' numbers, in the order of their names.
  std::vector<Part> blobs;
  std::vector<Root> roots;
  std::vector<Archive> archives;
  std::vector<Program> programs;
  std::string producer;

  [[nodiscard]] const Tensor* find(std::string_view name) const noexcept;
};

// Reads and checks the index of a file, by itself and against the header. Throws Error as Image::open does.
Index read_index(const Header& header);

// The bytes in each part of an image in parts.
struct PartSizes {
  std::vector<std::uint64_t> segments;
  std::vector<std::uint64_t> blobs;
};

// Reads and checks the index of an image in parts, by itself and against the parts. Throws Error as Image::assemble
// does.
Index read_index(std::string_view text, const PartSizes& sizes);

}  // namespace zerocopy
