#include "device/event.h"

#include <gtest/gtest.h>

#include <utility>

#include "device/pinned_buffer.h"
#include "fake_driver.h"

namespace zerocopy {
namespace {

using testing::bytes_at;
using testing::FakeDriver;

TEST(Event, who_waits_sees_what_the_stream_was_given_before) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const DeviceMapping mapping(DeviceMemory::create(device, 1), Access::read_write);
  const PinnedBuffer buffer(device, 2);
  buffer.bytes()[0] = buffer.bytes()[1] = std::byte{1};
  Stream stream(device);
  Event event(device);
  stream.copy_to_device(mapping, 0, buffer.bytes().first(1));
  event.record(stream);
  stream.copy_to_device(mapping, 1, buffer.bytes().last(1));
  event.wait();
  EXPECT_EQ(bytes_at(mapping.address(), 1)[0], std::byte{1});
  event.record(stream);
  event.wait();
  EXPECT_EQ(bytes_at(mapping.address(), 2)[1], std::byte{1});
}

TEST(Event, nobody_waits_for_an_event_that_was_not_recorded) {
  FakeDriver driver;
  {
    Event first(only_device(driver));
    Event second = std::move(first);
    second.wait();
  }
  EXPECT_EQ(driver.complaints(), "");
}

}  // namespace
}  // namespace zerocopy
