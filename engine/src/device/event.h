// A place in a stream's work.
#pragma once

#include <memory>

#include "device/device.h"
#include "device/stream.h"

namespace zerocopy {

// Owns an event of a device. For one thread at a time.
class Event {
 public:
  // Throws Error::Code::device_call.
  explicit Event(std::shared_ptr<const Device> device);
  Event(Event&&) = default;
  Event& operator=(Event&&) = delete;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  // Stands behind what the stream was given so far, and nowhere else any more. Throws Error::Code::device_call.
  void record(const Stream& stream);

  // Returns when the stream has done what the event stands behind; at once when it was never recorded. Throws
  // Error::Code::device_call, also for what failed in the stream.
  void wait();

 private:
  std::shared_ptr<const Device> device_;  // Null: moved from.
  cuda::CUevent handle_;
};

}  // namespace zerocopy
