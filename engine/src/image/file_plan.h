// What goes where in an image file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "image/digested_write.h"
#include "image/header.h"
#include "image/layout.h"
#include "zerocopy/image.h"

namespace zerocopy {

// Bytes of the data that are an entry of the header.
struct Entry {
  std::string_view name;           // Without the number that follows. Not used for a tensor.
  const Tensor* tensor = nullptr;  // The one that the entry is of.
  Range range;
};

// The data of an image file up to its index: segments, blobs, and what is between them. It borrows all that it is made
// of, and reads none of the bytes.
class FilePlan {
 public:
  // REQUIRES: the tensors have been checked. Throws Error::Code::too_large for too many segments.
  FilePlan(std::span<const Layout::Source> blocks, std::span<const std::span<const std::byte>> blobs,
           std::span<const Tensor> tensors);

  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }

  // The segments, then the blobs.
  [[nodiscard]] std::span<const Range> parts() const noexcept { return parts_; }

  // In the order of the data, without gaps.
  [[nodiscard]] std::span<const Entry> entries() const noexcept { return entries_; }

  // The same bytes. Each part has a digest of its own, of its number.
  [[nodiscard]] std::span<const Piece> pieces() const noexcept { return pieces_; }

  // Where the index begins, from the start of the data.
  [[nodiscard]] std::uint64_t end() const noexcept { return end_; }

 private:
  using Places = std::map<std::pair<std::uint32_t, std::uint64_t>, const Tensor*>;

  [[nodiscard]] Places readable_tensors(std::span<const Tensor> tensors) const;
  void add(std::string_view name, const Tensor* tensor, std::span<const std::byte> bytes,
           std::optional<std::uint32_t> part);
  void pad_to(std::uint64_t offset, std::optional<std::uint32_t> part);

  Layout layout_;
  std::vector<Range> parts_;
  std::vector<Entry> entries_;
  std::vector<Piece> pieces_;
  std::uint64_t end_ = 0;
};

}  // namespace zerocopy
