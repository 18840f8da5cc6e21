// Bytes of any memory, copied to a GPU by way of pinned buffers.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "device/device_mapping.h"
#include "device/event.h"
#include "device/pinned_buffer.h"
#include "device/stream.h"

namespace zerocopy {

// Copies bytes into a ring of pinned buffers, and from there to a device: while the device reads one buffer, this
// thread fills the next. For one thread at a time. The destructor waits for copies that were begun.
class StagedUpload {
 public:
  // A ring of `buffers` buffers of `buffer_size` bytes; neither is 0. Throws Error::Code::device_call.
  StagedUpload(const std::shared_ptr<const Device>& device, std::size_t buffers, std::size_t buffer_size);

  // Copies all of `from` into a mapping, from `offset` on. `from` is not needed any more when this returns, but the
  // mapping must stay until finish() has returned or this is gone. Throws Error: out_of_bounds or read_only_memory, and
  // nothing is copied; device_call, after which this can only be destroyed, and what is in the mapping is not defined.
  void write(const DeviceMapping& to, std::size_t offset, std::span<const std::byte> from);

  // Returns when everything is on the device. Throws Error::Code::device_call, as write() does.
  void finish();

 private:
  struct Slot {
    PinnedBuffer buffer;
    Event read;  // The device has read the buffer.
  };

  std::vector<Slot> ring_;
  std::size_t next_ = 0;
  Stream stream_;  // Behind the ring, so that it goes first: it waits for copies that read the buffers.
};

}  // namespace zerocopy
