#include "device/device_mapping.h"

#include <string>
#include <utility>

#include "zerocopy/error.h"

namespace zerocopy {

DeviceMapping::Addresses::Addresses(std::shared_ptr<const Device> device, std::size_t size)
    : device_(std::move(device)),
      size_(size),
      begin_(device_->ask("Addresses for " + std::to_string(size) + " bytes cannot be reserved",
                          [&](Driver& driver) { return driver.reserve_addresses(size); })) {}

DeviceMapping::Addresses::~Addresses() {
  if (device_) {
    device_->give_back([&](Driver& driver) { driver.free_addresses(begin_, size_); });
  }
}

DeviceMapping::DeviceMapping(const DeviceMemory& memory, Access access)
    : addresses_(memory.device(), memory.size()), device_(memory.device()), access_(access) {
  const std::string not_done = std::to_string(size()) + " bytes cannot be mapped";
  device_->tell(not_done, [&](Driver& driver) { return driver.map_memory(address(), size(), memory.handle()); });
  try {
    device_->tell(not_done,
                  [&](Driver& driver) { return driver.set_access(address(), size(), device_->number(), access); });
  } catch (...) {
    unmap();
    throw;
  }
}

DeviceMapping::~DeviceMapping() {
  if (device_) {
    unmap();
  }
}

void DeviceMapping::unmap() const noexcept {
  device_->give_back([&](Driver& driver) { driver.unmap_memory(address(), size()); });
}

cuda::CUdeviceptr DeviceMapping::at(std::size_t offset, std::size_t length) const {
  if (offset > size() || length > size() - offset) {
    throw Error(Error::Code::out_of_bounds, std::to_string(length) + " bytes from " + std::to_string(offset) +
                                                " on do not lie within the " + std::to_string(size()) +
                                                " that are mapped");
  }
  return address() + offset;
}

}  // namespace zerocopy
