// Memory of this process that a GPU may read where it is.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "device/device.h"
#include "system/system.h"

namespace zerocopy {

// Keeps the pages that hold some bytes in place for a device to read, and lets them go exactly once; no copy may be
// using them then. The bytes stay their owner's, who must not unmap them earlier. They may be mapped for reading only,
// as an object store's are. Pages of a private mapping are copied by the kernel when they are registered: give this
// the shared mapping.
class HostRegistration {
 public:
  // Throws Error::Code::device_call: also when a page is registered already, or the device cannot read memory that is
  // mapped for reading only.
  HostRegistration(std::shared_ptr<const Device> device, std::span<const std::byte> bytes,
                   System& system = System::real());
  HostRegistration(HostRegistration&&) = default;
  HostRegistration& operator=(HostRegistration&&) = delete;
  HostRegistration(const HostRegistration&) = delete;
  HostRegistration& operator=(const HostRegistration&) = delete;
  ~HostRegistration();

 private:
  std::shared_ptr<const Device> device_;  // Null: moved from.
  std::span<const std::byte> pages_;
};

}  // namespace zerocopy
