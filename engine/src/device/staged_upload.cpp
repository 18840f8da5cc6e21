#include "device/staged_upload.h"

#include <algorithm>
#include <cstring>

namespace zerocopy {

StagedUpload::StagedUpload(const std::shared_ptr<const Device>& device, std::size_t buffers, std::size_t buffer_size)
    : stream_(device) {
  ring_.reserve(buffers);
  for (std::size_t nth = 0; nth < buffers; ++nth) {
    ring_.push_back({PinnedBuffer(device, buffer_size), Event(device)});
  }
}

void StagedUpload::write(const DeviceMapping& to, std::size_t offset, std::span<const std::byte> from) {
  static_cast<void>(to.at(offset, from.size()));  // All or nothing.
  while (!from.empty()) {
    Slot& slot = ring_[next_];
    const std::size_t count = std::min(from.size(), slot.buffer.bytes().size());
    const std::span<std::byte> staged = slot.buffer.bytes().first(count);
    slot.read.wait();
    std::memcpy(staged.data(), from.data(), count);
    stream_.copy_to_device(to, offset, staged);
    slot.read.record(stream_);
    next_ = (next_ + 1) % ring_.size();
    offset += count;
    from = from.subspan(count);
  }
}

void StagedUpload::finish() { stream_.synchronize(); }

}  // namespace zerocopy
