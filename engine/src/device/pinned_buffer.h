// Memory of this process that a GPU copies from at full speed.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "device/device.h"

namespace zerocopy {

// Owns host memory that the kernel keeps in place, and frees it exactly once; no copy may be using it then. bytes() may
// be called from any thread.
class PinnedBuffer {
 public:
  // What is in it is not defined. Throws Error::Code::device_call.
  PinnedBuffer(std::shared_ptr<const Device> device, std::size_t size);
  PinnedBuffer(PinnedBuffer&&) = default;
  PinnedBuffer& operator=(PinnedBuffer&&) = delete;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer();

  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::shared_ptr<const Device> device_;  // Null: moved from.
  std::span<std::byte> bytes_;
};

}  // namespace zerocopy
