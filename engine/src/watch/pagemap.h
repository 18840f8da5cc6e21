// Which pages of a private mapping a process has made its own.
#pragma once

#include <cstdint>
#include <span>

#include "system/file_descriptor.h"

namespace zerocopy {

class System;

// Asks the kernel about this process's page table, as it is at each call. For one thread at a time; objects are
// independent. Does not outlive a fork: in the child it would still speak of the parent. `system` must outlive it.
class Pagemap {
 public:
  // Throws Error::Code::system_call when /proc/self/pagemap cannot be opened.
  explicit Pagemap(System& system);

  // Bytes of the pages in `range` (rounded out to whole pages) that are this process's own: written to since they were
  // mapped or last discarded, in memory or in swap. Pages never touched, or only read, count nothing. Asks by
  // PAGEMAP_SCAN (Linux 6.7) and where the kernel lacks it by reading an entry of 8 bytes a page. Throws
  // Error::Code::system_call.
  [[nodiscard]] std::uint64_t own_bytes(std::span<const std::byte> range);

 private:
  [[nodiscard]] std::uint64_t read_entries(std::uintptr_t begin, std::uintptr_t end) const;

  System* system_;
  FileDescriptor pagemap_;
};

}  // namespace zerocopy
