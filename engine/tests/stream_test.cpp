#include "device/stream.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attempt.h"
#include "device/pinned_buffer.h"
#include "fake_driver.h"

namespace zerocopy {
namespace {

using testing::bytes_at;
using testing::FakeDriver;
using testing::refusal;

constexpr std::size_t kGranule = FakeDriver::kGranularity;

TEST(Stream, bytes_are_copied_to_a_device_and_back) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const DeviceMapping mapping(DeviceMemory::create(device, kGranule), Access::read_write);
  const std::vector<std::byte> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
  std::vector<std::byte> read(2);
  Stream stream(device);
  stream.copy_to_device(mapping, 100, bytes);
  stream.copy_to_host(read, mapping, 101);
  stream.synchronize();
  EXPECT_EQ(read, (std::vector{std::byte{2}, std::byte{3}}));
}

TEST(Stream, copies_that_were_begun_are_made_before_a_stream_is_gone) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const DeviceMapping mapping(DeviceMemory::create(device, kGranule), Access::read_write);
  const PinnedBuffer buffer(device, 16);
  buffer.bytes()[0] = std::byte{5};
  {
    Stream first(device);
    first.copy_to_device(mapping, 0, buffer.bytes());
    const Stream second = std::move(first);
  }
  EXPECT_EQ(bytes_at(mapping.address(), 1)[0], std::byte{5});
}

TEST(Stream, nothing_is_copied_past_a_mapping_or_into_one_for_reading) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const DeviceMemory memory = DeviceMemory::create(device, kGranule);
  const DeviceMapping writable(memory, Access::read_write);
  const DeviceMapping readable(memory, Access::read);
  std::array<std::byte, 2> bytes{};
  Stream stream(device);
  EXPECT_EQ(refusal([&] { stream.copy_to_device(writable, kGranule - 1, bytes); }).code(), Error::Code::out_of_bounds);
  EXPECT_EQ(refusal([&] { stream.copy_to_host(bytes, writable, kGranule - 1); }).code(), Error::Code::out_of_bounds);
  EXPECT_EQ(refusal([&] { stream.copy_to_device(readable, 0, bytes); }).code(), Error::Code::read_only_memory);
  EXPECT_FALSE(driver.calls().contains("cuMemcpyHtoDAsync"));
}

TEST(Stream, to_copy_no_bytes_is_to_do_nothing) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const DeviceMapping mapping(DeviceMemory::create(device, kGranule), Access::read_write);
  Stream stream(device);
  stream.copy_to_device(mapping, kGranule, {});
  stream.copy_to_host({}, mapping, kGranule);
  EXPECT_FALSE(driver.calls().contains("cuMemcpyHtoDAsync"));
  EXPECT_FALSE(driver.calls().contains("cuMemcpyDtoHAsync"));
}

}  // namespace
}  // namespace zerocopy
