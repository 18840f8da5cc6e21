#include "device/host_registration.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "attempt.h"
#include "device/stream.h"
#include "fake_driver.h"
#include "shared_file.h"

namespace zerocopy {
namespace {

using testing::bytes_at;
using testing::FakeDriver;
using testing::FakeGpu;
using testing::has_pattern;
using testing::Mapped;
using testing::page_size;
using testing::refusal;
using testing::SharedFile;

TEST(HostRegistration, shared_pages_are_copied_to_a_device_from_where_they_are) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const SharedFile file(3);
  const Mapped source = file.map(PROT_READ);
  const std::span<const std::byte> bytes = source.bytes().subspan(100, 2 * page_size());
  const DeviceMapping mapping(DeviceMemory::create(device, bytes.size()), Access::read_write);
  {
    HostRegistration first(device, bytes);
    const HostRegistration second = std::move(first);
    Stream stream(device);
    stream.copy_to_device(mapping, 0, bytes);
    EXPECT_EQ(bytes_at(mapping.address(), 1)[0], std::byte{0}) << "it went by way of a copy";
    stream.synchronize();
  }
  EXPECT_TRUE(has_pattern(bytes_at(mapping.address(), bytes.size()), 100));
  EXPECT_EQ(driver.complaints().find("registrations"), std::string::npos);
}

TEST(HostRegistration, bytes_in_the_same_page_cannot_be_registered_twice) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const SharedFile file(1);
  const Mapped source = file.map(PROT_READ);
  const HostRegistration first(device, source.bytes().first(10));
  const Error error = refusal([&] { const HostRegistration second(device, source.bytes().last(10)); });
  EXPECT_EQ(error.code(), Error::Code::device_call);
  EXPECT_EQ(error.system_error(), static_cast<int>(cuda::CUresult::host_memory_already_registered));
}

TEST(HostRegistration, a_device_that_cannot_read_such_pages_says_so) {
  FakeDriver driver({FakeGpu{.registers_read_only = false}});
  const SharedFile file(1);
  const Mapped source = file.map(PROT_READ);
  const Error error = refusal([&] { const HostRegistration registration(only_device(driver), source.bytes()); });
  EXPECT_EQ(error.system_error(), static_cast<int>(cuda::CUresult::not_supported));
  EXPECT_EQ(driver.complaints(), "");
}

}  // namespace
}  // namespace zerocopy
