#include "device/event.h"

#include <utility>

namespace zerocopy {

Event::Event(std::shared_ptr<const Device> device)
    : device_(std::move(device)),
      handle_(device_->ask("An event cannot be made", [](Driver& driver) { return driver.create_event(); })) {}

Event::~Event() {
  if (device_) {
    device_->give_back([&](Driver& driver) { driver.destroy_event(handle_); });
  }
}

void Event::record(const Stream& stream) {
  device_->tell("A copy's end cannot be noted",
                [&](Driver& driver) { return driver.record(handle_, stream.handle()); });
}

void Event::wait() {
  device_->tell("A copy failed", [&](Driver& driver) { return driver.wait_for(handle_); });
}

}  // namespace zerocopy
