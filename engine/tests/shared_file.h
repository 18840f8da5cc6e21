// Memory shared between processes, as an object store has it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "window/mapping.h"

namespace zerocopy::testing {

inline std::size_t page_size() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

// What SharedFile has at an offset: other in each page, and other on each place of a page.
inline std::byte pattern_at(std::size_t offset) {
  return static_cast<std::byte>((offset * 31U + offset / page_size() * 7U) & 0xFFU);
}

// Whether bytes are those that SharedFile has from an offset on.
inline bool has_pattern(std::span<const std::byte> bytes, std::size_t offset) {
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    if (bytes[at] != pattern_at(offset + at)) {
      return false;
    }
  }
  return true;
}

// A mapping, unmapped with the object.
class Mapped {
 public:
  Mapped(void* address, std::size_t length) : bytes_(static_cast<std::byte*>(address), length) {
    if (address == MAP_FAILED) {
      throw std::runtime_error("mmap failed");
    }
  }
  Mapped(Mapped&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapped& operator=(Mapped&&) = delete;
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() { unmap(); }

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }

  void unmap() {
    if (!bytes_.empty()) {
      ::munmap(bytes_.data(), bytes_.size());
      bytes_ = {};
    }
  }

 private:
  std::span<std::byte> bytes_;
};

inline Mapped map_anonymous(std::size_t length, int protection = PROT_READ | PROT_WRITE, int flags = MAP_PRIVATE) {
  return {::mmap(nullptr, length, protection, flags | MAP_ANONYMOUS, -1, 0), length};
}

// An unlinked file of some pages in /dev/shm, open until close().
class SharedFile {
 public:
  enum class Content : std::uint8_t { pattern, zeros };

  explicit SharedFile(std::size_t pages, Content content = Content::pattern) : length_(pages * page_size()) {
    std::array<char, 32> path{"/dev/shm/zerocopy_test_XXXXXX"};
    descriptor_ = FileDescriptor(::mkostemp(path.data(), O_CLOEXEC));
    ::unlink(path.data());
    if (::ftruncate(descriptor(), static_cast<off_t>(length_)) != 0) {
      throw std::runtime_error("no room in /dev/shm");
    }
    if (content == Content::pattern) {
      const Mapped mapped = map();
      for (std::size_t at = 0; at < length_; ++at) {
        mapped.bytes()[at] = pattern_at(at);
      }
    }
  }

  [[nodiscard]] int descriptor() const { return descriptor_.number(); }
  [[nodiscard]] std::size_t length() const { return length_; }

  [[nodiscard]] FileId id() const {
    using Stat = struct stat;
    Stat status{};
    ::fstat(descriptor(), &status);
    return {major(status.st_dev), minor(status.st_dev), status.st_ino};
  }

  // MAP_SHARED, all of it.
  [[nodiscard]] Mapped map(int protection = PROT_READ | PROT_WRITE) const {
    return {::mmap(nullptr, length_, protection, MAP_SHARED, descriptor(), 0), length_};
  }

  // `length` bytes from `offset` on, in place of what is mapped at `address`; whoever owns that owns this.
  void map_over(std::byte* address, std::size_t length, std::size_t offset) const {
    if (::mmap(address, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor(),
               static_cast<off_t>(offset)) == MAP_FAILED) {
      throw std::runtime_error("mmap failed");
    }
  }

  void close() { descriptor_ = {}; }

 private:
  std::size_t length_;
  FileDescriptor descriptor_;
};

}  // namespace zerocopy::testing
