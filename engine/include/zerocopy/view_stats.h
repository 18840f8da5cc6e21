// What mapped weights cost a process in memory.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace zerocopy {

class System;

// What a View maps and what of it is this process's own, at the moment of asking. All figures are bytes; those of pages
// count whole ones, so that they may exceed `nbytes` by up to two pages for each mapping.
struct ViewStats {
  std::uint64_t nbytes = 0;            // The lengths of all segments together.
  std::uint64_t shared_bytes = 0;      // Mapped pages that this process has not written to: the source's own.
  std::uint64_t copied_bytes = 0;      // Of nbytes, what is a private copy.
  std::string private_copy_reason;     // Why; empty when nothing was copied.
  std::uint64_t diverged_bytes = 0;    // Mapped pages that were written to, in memory or in swap: this process's own.
  std::uint64_t resident_bytes = 0;    // Mapped pages that this process has in its page table: its part of the RSS.
  std::uint64_t page_table_bytes = 0;  // As PageUse has it.
};

// What a process has of some of its mapped pages. All figures are bytes.
struct PageUse {
  std::uint64_t resident_bytes = 0;  // In its page table.
  std::uint64_t own_bytes = 0;       // Not a file's: written to since they were mapped or discarded; in memory or swap.

  // An estimate of what the page table takes: a page for each table of the lowest level that has an entry in use.
  // Each of them maps 2 MiB where a page has 4 KiB. What the estimate leaves out: the levels above (less than 1 %),
  // tables that are empty by now and those that only note watched pages. Where the kernel maps huge pages, which it
  // does in shared memory when it is configured so, it needs fewer tables than this.
  std::uint64_t page_table_bytes = 0;
};

// Asks the kernel about address ranges [first, last) of a process, rounded out to whole pages; unmapped addresses count
// nothing. May be called from any thread. Throws Error::Code::system_call: there is no such process any more (ENOENT,
// ESRCH), it is not one that this process may look into (EACCES, EPERM), or the kernel does not tell.
[[nodiscard]] PageUse page_use(int process, std::span<const std::pair<std::uintptr_t, std::uintptr_t>> ranges);

// The same with `system` in the place of the operating system.
[[nodiscard]] PageUse page_use(int process, std::span<const std::pair<std::uintptr_t, std::uintptr_t>> ranges,
                               System& system);

}  // namespace zerocopy
