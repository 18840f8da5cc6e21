// Memory on a GPU that several processes can have.
#pragma once

#include <cstddef>
#include <memory>

#include "device/device.h"
#include "system/file_descriptor.h"

namespace zerocopy {

// Owns one handle to physical memory of a device, and releases it exactly once. The memory itself lives for as long as
// a handle to it, a descriptor from share(), or a DeviceMapping of it is left in any process. (NVIDIA's reference says
// so of cuMemRelease; that it holds when every process with a CUDA context has gone, and a descriptor alone is left, is
// yet to be seen on a GPU: engine/benchmarks/device_probe.cpp.)
//
// size() and device() may be called from any thread, share() too.
class DeviceMemory {
 public:
  // New memory of `size` bytes, rounded up to what the device allocates at once; what is in it is not defined. Throws
  // Error::Code::device_call, system_error() being CUresult::out_of_memory when the device has no room.
  static DeviceMemory create(std::shared_ptr<const Device> device, std::size_t size);

  // The memory that share() gave a descriptor of, in this process or another; it must be on the same device. The
  // descriptor stays the caller's and may be closed afterwards. `size` is that of the memory, which a descriptor does
  // not tell. Throws Error::Code::device_call.
  static DeviceMemory import(std::shared_ptr<const Device> device, int descriptor, std::size_t size);

  DeviceMemory(DeviceMemory&&) = default;
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory();

  // A descriptor to be given to other processes: over a Unix socket, or by a fork. A process needs no CUDA to hold one.
  // Throws Error::Code::device_call.
  [[nodiscard]] FileDescriptor share() const;

  // Bytes, a multiple of what the device allocates at once.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  [[nodiscard]] const std::shared_ptr<const Device>& device() const noexcept { return device_; }
  [[nodiscard]] cuda::CUmemGenericAllocationHandle handle() const noexcept { return handle_; }

 private:
  DeviceMemory(std::shared_ptr<const Device> device, cuda::CUmemGenericAllocationHandle handle,
               std::size_t size) noexcept;

  std::shared_ptr<const Device> device_;  // Null: moved from.
  cuda::CUmemGenericAllocationHandle handle_;
  std::size_t size_;
};

}  // namespace zerocopy
