// A process's private, writable window on shared bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "zerocopy/error.h"
#include "zerocopy/view_stats.h"

namespace zerocopy {

class System;

// A private, writable window on one or more spans of bytes (segments) that other processes may share: reads go to the
// shared pages, and the first write to a page gives this process a page of its own (copy on write, by the kernel).
// Nobody else ever sees a write: not the source, not another View of the same bytes, not a parent or child after fork.
//
// A segment that lies in MAP_SHARED mappings of files is mapped, if its files can be found: this process, its parent or
// a raylet of the same user must hold them open. Its address within a page, and so its alignment, is the source's.
// Segments whose pages touch or overlap are mapped in one piece and keep their distance, so segments that overlap in
// the source do so here. A segment across several mappings or files is one contiguous span here as well. Every other
// segment is a private copy, 64-byte aligned, and private_copy_reason() says why; segments that overlap are copied as
// one.
//
// Ownership: the View keeps `source`, which must keep the segments' bytes readable and unchanged. When the View goes,
// `source` is released once no child that was forked meanwhile, nor any descendant of one, may use the bytes any more:
// at once when there are none, else by a thread that waits for them. A child never releases what it has inherited. The
// View owns its mappings and copies and frees each exactly once. After construction the mapped segments need the
// source's mapping no more (its owner may unmap it), but pages that nobody has written still have the file's content:
// whoever may write to the file must be kept from it by `source`.
//
// Threads: all members but moves, assignment and destruction may be called from any thread at any time, with one
// limit that is the caller's: the bytes are plain memory, so a write to a byte while another thread reads or writes it,
// or resets the View, is a race, and has either outcome. A moved-from View may only be assigned to or destroyed. After
// fork the child's View is its own: parent and child may each use and drop theirs.
class View {
 public:
  // Throws Error: bad_segment, unmapped_segment; std::bad_alloc when a private copy has no room. Empty segments are
  // welcome and have no address.
  View(std::span<const std::span<const std::byte>> segments, std::shared_ptr<const void> source);

  // The same with `system` in the place of the operating system. It must outlive the View.
  View(std::span<const std::span<const std::byte>> segments, std::shared_ptr<const void> source, System& system);

  View(View&& other) noexcept;
  View& operator=(View&& other) noexcept;
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  ~View();

  // The number of segments.
  [[nodiscard]] std::size_t size() const noexcept;

  // The View's bytes for a segment, as long as the View lives. Throws Error::Code::no_such_segment.
  [[nodiscard]] std::span<std::byte> segment(std::size_t index) const;

  // The lengths of all segments together, in bytes.
  [[nodiscard]] std::uint64_t nbytes() const noexcept;

  // How many of nbytes() are private copies.
  [[nodiscard]] std::uint64_t copied_bytes() const noexcept;

  // Why not all segments are shared: one sentence, about the first that isn't. Empty when all are.
  [[nodiscard]] const std::string& private_copy_reason() const noexcept;

  // The code of the same error: for statistics, since the sentence has addresses in it.
  [[nodiscard]] std::optional<Error::Code> private_copy_code() const noexcept;

  // Starts to put all mapped pages into the page table, with up to `threads` background threads (1 to 64), and
  // returns; does nothing while that is still going on. The threads end with the View. Throws Error: bad_thread_count,
  // system_call.
  void prefault(unsigned threads = 1);

  // Returns when no prefault is under way.
  void wait_prefault() const noexcept;

  // Bytes of the pages that this process has made its own in the mapped segments: 0 as long as nobody wrote to them.
  // Private copies count nothing here (see copied_bytes). Throws Error::Code::system_call where the kernel won't tell.
  [[nodiscard]] std::uint64_t diverged_bytes() const;

  // All of the above at once, with what the page table says of the mapped segments. Takes time in proportion to their
  // length (some milliseconds a GB). Throws Error::Code::system_call where the kernel won't tell.
  [[nodiscard]] ViewStats stats() const;

  // The pages that the mapped segments lie in, a span for each mapping, as long as the View lives.
  [[nodiscard]] std::vector<std::span<const std::byte>> mapped_pages() const;

  // Has the kernel note writes from now on, so that diverged_bytes() takes a tenth of the time and reset() leaves all
  // pages that were not written to in the page table. Returns whether it does: false where the kernel cannot, where
  // this process has pages of its own already (reset() first), and while another thread is just beginning. Watching
  // costs a descriptor, and each write's first fault a little; a page that is not in the page table yet costs five
  // times as much from now on, so prefault() first. A forked child's View is not watched.
  bool watch_writes();

  // Back to the shared content: this process's own pages are dropped without mapping anything anew, so that all
  // addresses stay good; private copies are copied again from the source. Throws Error::Code::system_call.
  void reset();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace zerocopy
