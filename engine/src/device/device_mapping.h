// A GPU's memory, at addresses that programs on the GPU can use.
#pragma once

#include <cstddef>
#include <memory>

#include "device/device.h"
#include "device/device_memory.h"
#include "device/driver.h"

namespace zerocopy {

// Owns addresses of this process at which all of a DeviceMemory lies, and unmaps them exactly once. Keeps the memory,
// also when the DeviceMemory goes. Nothing on the device may use the addresses any more when this goes.
//
// Any number of mappings, in any number of processes, may be of the same memory; what one of them writes, all see.
// Members may be called from any thread.
class DeviceMapping {
 public:
  // Throws Error::Code::device_call.
  DeviceMapping(const DeviceMemory& memory, Access access);
  DeviceMapping(DeviceMapping&&) = default;
  DeviceMapping& operator=(DeviceMapping&&) = delete;
  DeviceMapping(const DeviceMapping&) = delete;
  DeviceMapping& operator=(const DeviceMapping&) = delete;
  ~DeviceMapping();

  [[nodiscard]] cuda::CUdeviceptr address() const noexcept { return addresses_.begin(); }
  [[nodiscard]] std::size_t size() const noexcept { return addresses_.size(); }
  [[nodiscard]] Access access() const noexcept { return access_; }

  // The address of the `length` bytes from `offset` on. Throws Error::Code::out_of_bounds unless they are all in here.
  [[nodiscard]] cuda::CUdeviceptr at(std::size_t offset, std::size_t length) const;

 private:
  // Reserved addresses, given back exactly once.
  class Addresses {
   public:
    Addresses(std::shared_ptr<const Device> device, std::size_t size);
    Addresses(Addresses&&) = default;
    Addresses& operator=(Addresses&&) = delete;
    Addresses(const Addresses&) = delete;
    Addresses& operator=(const Addresses&) = delete;
    ~Addresses();

    [[nodiscard]] cuda::CUdeviceptr begin() const noexcept { return begin_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

   private:
    std::shared_ptr<const Device> device_;  // Null: moved from.
    std::size_t size_;
    cuda::CUdeviceptr begin_;
  };

  void unmap() const noexcept;

  Addresses addresses_;
  std::shared_ptr<const Device> device_;  // Null: moved from.
  Access access_;
};

}  // namespace zerocopy
