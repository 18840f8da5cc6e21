// Copies between this process's memory and a GPU's.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "device/device.h"
#include "device/device_mapping.h"

namespace zerocopy {

// Owns a stream of a device: copies that are made one after the other, beside what else the device does. The destructor
// waits for those that were begun. For one thread at a time.
//
// A copy is quick, and returns at once, if the bytes in this process's memory are a PinnedBuffer's or in a
// HostRegistration. These, and the mapping, must then stay until synchronize() has returned or the Stream is gone.
class Stream {
 public:
  // Throws Error::Code::device_call.
  explicit Stream(std::shared_ptr<const Device> device);
  Stream(Stream&&) = default;
  Stream& operator=(Stream&&) = delete;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  // Begins to copy all of `from` into a mapping, from `offset` on. Throws Error: out_of_bounds or read_only_memory, and
  // nothing is copied; device_call.
  void copy_to_device(const DeviceMapping& to, std::size_t offset, std::span<const std::byte> from);

  // Begins to fill `to` from a mapping's `offset` on. Throws Error: out_of_bounds, and nothing is copied; device_call.
  void copy_to_host(std::span<std::byte> to, const DeviceMapping& from, std::size_t offset);

  // Returns when all copies are made. Throws Error::Code::device_call when one of them failed: what it was to write is
  // then not defined.
  void synchronize();

  [[nodiscard]] const std::shared_ptr<const Device>& device() const noexcept { return device_; }
  [[nodiscard]] cuda::CUstream handle() const noexcept { return handle_; }

 private:
  std::shared_ptr<const Device> device_;  // Null: moved from.
  cuda::CUstream handle_;
};

}  // namespace zerocopy
