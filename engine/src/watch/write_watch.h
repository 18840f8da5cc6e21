// Which pages of private mappings were written to, at a cost that suits asking after every use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "system/file_descriptor.h"

namespace zerocopy {

class System;

// Has the kernel note the first write to each page of some mappings. Asking then takes a look at each entry of the page
// table, where Pagemap has the kernel look at each page itself: some ten times as long. Neither the one who writes nor
// anybody else has to do anything: the kernel resolves the faults (userfaultfd's asynchronous write protection,
// Linux 6.7).
//
// Owns a descriptor; the mappings are the caller's, and must stay mapped as long as this lives. written_bytes() may be
// called from any thread, and so may discard_written(); what is written while they run may or may not count. A forked
// child's mappings are not watched. `system` must outlive it.
class WriteWatch {
 public:
  // Begins to watch; what was written before does not count. Null where the kernel cannot: it is older, does not let
  // this process, or a range is of a file in no memory of its own (tmpfs has one, a disk has not).
  static std::unique_ptr<WriteWatch> begin(std::vector<std::span<std::byte>> ranges, System& system);

  // Whether this is still the process that began to watch.
  [[nodiscard]] bool applies() const noexcept;

  // Bytes of the pages written to since watching began, or since they were discarded. Throws Error::Code::system_call.
  [[nodiscard]] std::uint64_t written_bytes() const;

  // Gives the pages written to back to the kernel, so that they have the file's content again. All others stay in the
  // page table. Throws Error::Code::system_call.
  void discard_written();

 private:
  WriteWatch(FileDescriptor watch, std::vector<std::span<std::byte>> ranges, System& system);

  [[nodiscard]] std::vector<std::span<std::byte>> written() const;

  FileDescriptor watch_;
  std::vector<std::span<std::byte>> ranges_;
  System* system_;
  int process_;
};

}  // namespace zerocopy
