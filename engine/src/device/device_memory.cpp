#include "device/device_memory.h"

#include <limits>
#include <string>
#include <utility>

namespace zerocopy {
namespace {

// The largest multiple that there is, which no device has, for what cannot be rounded up.
std::size_t rounded_up(std::size_t size, std::size_t granularity) {
  const std::size_t most = std::numeric_limits<std::size_t>::max() / granularity * granularity;
  return size > most ? most : (size + granularity - 1) / granularity * granularity;
}

}  // namespace

DeviceMemory::DeviceMemory(std::shared_ptr<const Device> device, cuda::CUmemGenericAllocationHandle handle,
                           std::size_t size) noexcept
    : device_(std::move(device)), handle_(handle), size_(size) {}

DeviceMemory DeviceMemory::create(std::shared_ptr<const Device> device, std::size_t size) {
  const std::string not_done = std::to_string(size) + " bytes cannot be allocated";
  const auto granularity = device->ask(not_done, [&](Driver& driver) { return driver.granularity(device->number()); });
  const std::size_t whole = rounded_up(size, granularity);
  const auto handle =
      device->ask(not_done, [&](Driver& driver) { return driver.create_memory(device->number(), whole); });
  return {std::move(device), handle, whole};
}

DeviceMemory DeviceMemory::import(std::shared_ptr<const Device> device, int descriptor, std::size_t size) {
  const auto handle = device->ask("Memory cannot be imported from the descriptor " + std::to_string(descriptor),
                                  [&](Driver& driver) { return driver.import_memory(descriptor); });
  return {std::move(device), handle, size};
}

DeviceMemory::~DeviceMemory() {
  if (device_) {
    device_->give_back([&](Driver& driver) { driver.release_memory(handle_); });
  }
}

FileDescriptor DeviceMemory::share() const {
  return device_->ask(std::to_string(size_) + " bytes cannot be shared",
                      [&](Driver& driver) { return driver.export_memory(handle_); });
}

}  // namespace zerocopy
