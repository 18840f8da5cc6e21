#include "device/host_registration.h"

#include <string>
#include <utility>

#include "system/page_range.h"

namespace zerocopy {
namespace {

std::span<const std::byte> pages_around(std::span<const std::byte> bytes, std::size_t page_size) {
  const auto [begin, end] = PageRange::around(bytes, page_size);
  return {bytes.data() - (address_of(bytes.data()) - begin), end - begin};
}

}  // namespace

HostRegistration::HostRegistration(std::shared_ptr<const Device> device, std::span<const std::byte> bytes,
                                   System& system)
    : device_(std::move(device)), pages_(pages_around(bytes, system.page_size())) {
  device_->tell(std::to_string(bytes.size()) + " bytes of host memory cannot be registered for copies",
                [&](Driver& driver) { return driver.register_host_memory(pages_); });
}

HostRegistration::~HostRegistration() {
  if (device_) {
    device_->give_back([&](Driver& driver) { driver.unregister_host_memory(pages_.data()); });
  }
}

}  // namespace zerocopy
