#include "device/pinned_buffer.h"

#include <string>
#include <utility>

namespace zerocopy {

PinnedBuffer::PinnedBuffer(std::shared_ptr<const Device> device, std::size_t size)
    : device_(std::move(device)),
      bytes_(device_->ask(std::to_string(size) + " bytes of host memory cannot be allocated for copies",
                          [&](Driver& driver) { return driver.allocate_host_memory(size); }),
             size) {}

PinnedBuffer::~PinnedBuffer() {
  if (device_) {
    device_->give_back([&](Driver& driver) { driver.free_host_memory(bytes_.data()); });
  }
}

}  // namespace zerocopy
