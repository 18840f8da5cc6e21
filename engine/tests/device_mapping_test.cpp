#include "device/device_mapping.h"

#include <gtest/gtest.h>

#include <csignal>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "attempt.h"
#include "child_process.h"
#include "fake_driver.h"

namespace zerocopy {
namespace {

using testing::bytes_at;
using testing::FakeDriver;
using testing::problem_in_child;
using testing::refusal;

constexpr std::size_t kGranule = FakeDriver::kGranularity;

TEST(DeviceMapping, what_one_mapping_writes_all_see) {
  FakeDriver driver;
  const DeviceMemory memory = DeviceMemory::create(only_device(driver), kGranule);
  const DeviceMapping writer(memory, Access::read_write);
  const DeviceMapping reader(memory, Access::read);
  EXPECT_NE(writer.address(), reader.address());
  bytes_at(writer.at(kGranule - 1, 1), 1)[0] = std::byte{9};
  EXPECT_EQ(bytes_at(reader.at(kGranule - 1, 1), 1)[0], std::byte{9});
}

TEST(DeviceMapping, a_write_through_a_mapping_for_reading_faults_where_it_is_made_and_changes_nothing) {
  FakeDriver driver;
  const DeviceMemory memory = DeviceMemory::create(only_device(driver), kGranule);
  const DeviceMapping reader(memory, Access::read);
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              static_cast<void>(std::signal(SIGSEGV, SIG_DFL));
              volatile std::byte* const byte = bytes_at(reader.address(), 1).data();
              *byte = std::byte{1};
              return "it was written to";
            }),
            " (the child ended with status " + std::to_string(SIGSEGV) + ")");
  EXPECT_EQ(bytes_at(reader.address(), 1)[0], std::byte{0});
}

TEST(DeviceMapping, a_mapping_is_all_of_its_memory_and_keeps_it) {
  FakeDriver driver;
  std::optional<DeviceMemory> memory(DeviceMemory::create(only_device(driver), 3 * kGranule));
  const DeviceMapping mapping(*memory, Access::read_write);
  EXPECT_EQ(mapping.size(), 3 * kGranule);
  EXPECT_EQ(mapping.address() % kGranule, 0U);
  EXPECT_EQ(mapping.access(), Access::read_write);
  memory.reset();
  bytes_at(mapping.address(), 1)[0] = std::byte{1};
  EXPECT_EQ(FakeDriver::used(driver.gpus().front().uuid), 3 * kGranule);
}

TEST(DeviceMapping, bytes_that_are_not_all_within_have_no_address) {
  FakeDriver driver;
  const DeviceMapping mapping(DeviceMemory::create(only_device(driver), kGranule), Access::read);
  EXPECT_EQ(mapping.at(0, kGranule), mapping.address());
  EXPECT_EQ(mapping.at(kGranule, 0), mapping.address() + kGranule);
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  for (const auto& [offset, length] : {std::pair{std::size_t{0}, kGranule + 1},
                                       {kGranule, std::size_t{1}},
                                       {most, std::size_t{2}},
                                       {std::size_t{2}, most}}) {
    EXPECT_EQ(refusal([&] { static_cast<void>(mapping.at(offset, length)); }).code(), Error::Code::out_of_bounds);
  }
}

TEST(DeviceMapping, memory_of_another_size_than_was_said_is_not_mapped) {
  FakeDriver driver;
  const auto device = only_device(driver);
  {
    const FileDescriptor shared = DeviceMemory::create(device, kGranule).share();
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, 2 * kGranule}) {
      const DeviceMemory memory = DeviceMemory::import(device, shared.number(), size);
      EXPECT_EQ(refusal([&] { const DeviceMapping mapping(memory, Access::read); }).code(), Error::Code::device_call);
    }
  }
  EXPECT_EQ(driver.complaints(), "1 retained contexts held; ");
}

TEST(DeviceMapping, a_mapping_is_unmapped_by_its_last_owner_only) {
  FakeDriver driver;
  {
    DeviceMapping first(DeviceMemory::create(only_device(driver), kGranule), Access::read_write);
    const DeviceMapping second = std::move(first);
    bytes_at(second.address(), 1)[0] = std::byte{1};
  }
  EXPECT_EQ(driver.complaints(), "");
}

}  // namespace
}  // namespace zerocopy
