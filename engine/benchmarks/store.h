// What all benchmarks measure on.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "zerocopy/view.h"

namespace zerocopy::benchmarks {

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kMebibyte = std::size_t{1} << 20U;

// A shared file in memory, as an object store has it: filled, mapped and open for as long as the process lives.
class Store {
 public:
  explicit Store(std::size_t length) : descriptor_(::memfd_create("store", MFD_CLOEXEC)) {
    if (descriptor_ == -1 || ::ftruncate(descriptor_, static_cast<off_t>(length)) != 0) {
      std::abort();
    }
    void* const address = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (address == MAP_FAILED) {
      std::abort();
    }
    std::memset(address, 1, length);
    bytes_ = {static_cast<std::byte*>(address), length};
  }

  // The length of BERT-base's weights, for all that use the same.
  static const Store& of_bert() {
    static const Store store(418 * kMebibyte);
    return store;
  }

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }

  [[nodiscard]] View view() const {
    const std::vector<std::span<const std::byte>> segments{bytes_};
    return {segments, nullptr};
  }

  // As whoever did not make the store has it: for reading only.
  [[nodiscard]] std::span<const std::byte> map_shared() const {
    void* const address = ::mmap(nullptr, bytes_.size(), PROT_READ, MAP_SHARED, descriptor_, 0);
    if (address == MAP_FAILED) {
      std::abort();
    }
    return {static_cast<const std::byte*>(address), bytes_.size()};
  }

  // What a View is made of in the end: the bare system call.
  [[nodiscard]] std::span<std::byte> map_private() const {
    void* const address =
        ::mmap(nullptr, bytes_.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor_, 0);
    if (address == MAP_FAILED) {
      std::abort();
    }
    return {static_cast<std::byte*>(address), bytes_.size()};
  }

 private:
  int descriptor_;
  std::span<std::byte> bytes_;
};

inline void unmap(std::span<std::byte> bytes) { ::munmap(bytes.data(), bytes.size()); }

// Reads a byte of each page: the page faults.
inline void touch(std::span<const std::byte> bytes) {
  const volatile std::byte* const byte = bytes.data();
  for (std::size_t at = 0; at < bytes.size(); at += kPage) {
    static_cast<void>(byte[at]);
  }
}

// Writes to every nth page.
inline void write_pages(std::span<std::byte> bytes, std::size_t every) {
  for (std::size_t at = 0; at < bytes.size(); at += every * kPage) {
    bytes[at] = std::byte{2};
  }
}

}  // namespace zerocopy::benchmarks
