// Copies of bytes that cannot be shared.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <vector>

namespace zerocopy {

// Owns a copy of each of some spans, 64-byte aligned. Spans that overlap are copied as one, so that their copies
// overlap in the same way (the copy of the first byte of all is the aligned one then). The sources must stay readable
// for as long as copy_again() is called. All members but that may be called from any thread.
class PrivateCopies {
 public:
  // `sources` has no empty span. Throws std::bad_alloc.
  explicit PrivateCopies(const std::vector<std::span<const std::byte>>& sources);

  // The copy of the source with that index.
  [[nodiscard]] std::span<std::byte> at(std::size_t index) const { return copies_.at(index); }

  // Overwrites the copies with what the sources have now.
  void copy_again() noexcept;

 private:
  static constexpr std::align_val_t kAlignment{64};

  struct Free {
    void operator()(std::byte* bytes) const noexcept { ::operator delete(bytes, kAlignment); }
  };
  struct Block {
    std::span<const std::byte> source;
    std::size_t offset;  // In bytes_.
  };

  std::vector<Block> blocks_;
  std::unique_ptr<std::byte, Free> bytes_;
  std::vector<std::span<std::byte>> copies_;
};

}  // namespace zerocopy
