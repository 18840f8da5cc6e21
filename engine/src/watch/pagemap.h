// Which pages of a private mapping a process has in its page table, and which of them it has made its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "system/file_descriptor.h"
#include "zerocopy/view_stats.h"

namespace zerocopy {

class System;

// Asks the kernel about a process's page table, as it is at each call. For one thread at a time; objects are
// independent. Does not outlive a fork: in the child it would still speak of the parent. `system` must outlive it.
class Pagemap {
 public:
  // This process's. Throws Error::Code::system_call when /proc/self/pagemap cannot be opened.
  explicit Pagemap(System& system);

  // Any process's, by its number. Throws the same.
  Pagemap(int process, System& system);

  // Bytes of the pages in `range` (rounded out to whole pages) that are this process's own: written to since they were
  // mapped or last discarded, in memory or in swap. Pages never touched, or only read, count nothing. Asks by
  // PAGEMAP_SCAN (Linux 6.7) and where the kernel lacks it by reading an entry of 8 bytes a page. Throws
  // Error::Code::system_call.
  [[nodiscard]] std::uint64_t own_bytes(std::span<const std::byte> range);

  // What the process has of the pages in [begin, end), rounded out to whole ones; watched pages that nobody wrote to
  // are not its own. Reads an entry of 8 bytes a page, which takes some milliseconds a GB. Throws
  // Error::Code::system_call.
  [[nodiscard]] PageUse use(std::uintptr_t begin, std::uintptr_t end) const;

 private:
  Pagemap(std::string path, System& system);

  [[nodiscard]] std::uint64_t read_entries(std::uintptr_t begin, std::uintptr_t end) const;

  // Calls `see` with the number of each page in [begin, end), which are page boundaries, and its entry.
  template <typename See>
  void for_each_entry(std::uintptr_t begin, std::uintptr_t end, See see) const;

  System* system_;
  std::string path_;
  FileDescriptor pagemap_;
};

}  // namespace zerocopy
