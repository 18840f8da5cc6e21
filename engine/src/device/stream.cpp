#include "device/stream.h"

#include <string>
#include <utility>

#include "zerocopy/error.h"

namespace zerocopy {

Stream::Stream(std::shared_ptr<const Device> device)
    : device_(std::move(device)),
      handle_(device_->ask("A stream cannot be made", [](Driver& driver) { return driver.create_stream(); })) {}

Stream::~Stream() {
  if (device_) {
    device_->give_back([&](Driver& driver) {
      // An error here is that of a copy: nothing uses anybody's memory any more in that case either.
      driver.synchronize(handle_);
      driver.destroy_stream(handle_);
    });
  }
}

void Stream::copy_to_device(const DeviceMapping& to, std::size_t offset, std::span<const std::byte> from) {
  const cuda::CUdeviceptr address = to.at(offset, from.size());
  if (to.access() == Access::read) {
    throw Error(Error::Code::read_only_memory,
                std::to_string(from.size()) + " bytes are to be copied into a mapping for reading only");
  }
  if (from.empty()) {
    return;
  }
  device_->tell(std::to_string(from.size()) + " bytes cannot be copied to memory",
                [&](Driver& driver) { return driver.copy_to_device(address, from, handle_); });
}

void Stream::copy_to_host(std::span<std::byte> to, const DeviceMapping& from, std::size_t offset) {
  const cuda::CUdeviceptr address = from.at(offset, to.size());
  if (to.empty()) {
    return;
  }
  device_->tell(std::to_string(to.size()) + " bytes cannot be copied from memory",
                [&](Driver& driver) { return driver.copy_to_host(to, address, handle_); });
}

void Stream::synchronize() {
  device_->tell("A copy failed", [&](Driver& driver) { return driver.synchronize(handle_); });
}

}  // namespace zerocopy
