// Where the blocks of an image lie in its segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace zerocopy {

// Lays blocks of bytes out as the segments of an image (docs/image_format.md). Blocks that overlap in memory form a run
// and overlap in their segment likewise; blocks that only touch do not. A segment holds runs that the same set of roots
// uses, so that whoever loads a root maps nothing that the root does not need. Runs keep the order in which the first
// of their blocks was given, which is much like that of their use.
//
// In a file, all runs of the same roots are one segment of whole pages: the runs of more than 64 KiB come first, each
// of them at a page; the smaller ones follow, packed at multiples of 64 bytes. In parts, a run of more than 64 KiB is
// a segment by itself, and the smaller ones of the same roots are another one, so that large runs need not be copied.
//
// The result depends on nothing but the sizes of the blocks, their order, their overlaps and their roots. A Layout
// knows no file: whoever needs the bytes of a segment writes its runs, and zeros between them, wherever it likes.
//
// A value type, immutable; it borrows the bytes of the blocks, and looks at none of them.
class Layout {
 public:
  enum class Form : std::uint8_t { file, parts };

  struct Source {
    std::span<const std::byte> bytes;
    std::vector<std::uint32_t> roots;  // The numbers of the roots that use the block: ascending, each once.
  };

  struct Place {
    std::optional<std::uint32_t> segment;  // None: the block has no bytes.
    std::uint64_t offset = 0;              // From the segment's start.
  };

  struct Run {
    std::uint64_t offset = 0;          // From the segment's start.
    std::span<const std::byte> bytes;  // From the lowest to the highest byte of its blocks.
    std::uint32_t first_block = 0;     // The smallest number of its blocks.
  };

  struct Segment {
    std::uint64_t nbytes = 0;          // In a file a multiple of a page.
    std::vector<Run> runs;             // Ascending, by offset.
    std::vector<std::uint32_t> roots;  // Of each of its runs.
  };

  // A block's number is its position. With `join`, blocks that touch form a run as well, if the same roots use them and
  // each then begins at a multiple of 64 bytes: memory that is copied as it lies is copied faster in few large pieces.
  explicit Layout(std::span<const Source> blocks, Form form = Form::file, bool join = false);

  // Of each block.
  [[nodiscard]] const std::vector<Place>& places() const noexcept { return places_; }
  [[nodiscard]] const std::vector<Segment>& segments() const noexcept { return segments_; }

 private:
  std::vector<Place> places_;
  std::vector<Segment> segments_;
};

// The smallest multiple of `alignment` that is not smaller than `offset`.
[[nodiscard]] constexpr std::uint64_t aligned(std::uint64_t offset, std::uint64_t alignment) noexcept {
  return (offset + alignment - 1) / alignment * alignment;
}

}  // namespace zerocopy
