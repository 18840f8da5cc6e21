// A stretch of private pages over the bytes of one or more files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "system/backing_file.h"

namespace zerocopy {

class System;

// Some pages of a file: offset and length are multiples of the page size.
struct FilePart {
  std::shared_ptr<const BackingFile> file;
  std::uint64_t offset = 0;
  std::size_t length = 0;
};

// Owns a private, writable mapping of parts of files, one behind the other in memory, and unmaps it exactly once. Keeps
// the files open, so that the next Region of the same need not search for them. bytes() may be called from any thread;
// `system` must outlive it.
class Region {
 public:
  // `parts` has at least one. Throws Error::Code::system_call.
  Region(std::vector<FilePart> parts, System& system);
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) = delete;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }

 private:
  Region(std::vector<FilePart> parts, System& system, std::span<std::byte> bytes) noexcept;

  std::vector<FilePart> parts_;
  System* system_;
  std::span<std::byte> bytes_;  // Empty: moved from.
};

}  // namespace zerocopy
