#include "device/staged_upload.h"

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <thread>
#include <vector>

#include "attempt.h"
#include "fake_driver.h"
#include "shared_file.h"

namespace zerocopy {
namespace {

using testing::bytes_at;
using testing::FakeDriver;
using testing::has_pattern;
using testing::pattern_at;
using testing::refusal;

constexpr std::size_t kGranule = FakeDriver::kGranularity;

std::vector<std::byte> pattern(std::size_t length, std::size_t from) {
  std::vector<std::byte> bytes(length);
  for (std::size_t at = 0; at < length; ++at) {
    bytes[at] = pattern_at(from + at);
  }
  return bytes;
}

// Rings of one buffer and of several; buffers larger than all bytes, and smaller than a piece of them.
class Ring : public ::testing::TestWithParam<std::pair<std::size_t, std::size_t>> {};

TEST_P(Ring, bytes_of_several_pieces_arrive_though_the_pieces_are_gone) {
  const auto [buffers, buffer_size] = GetParam();
  FakeDriver driver;
  const auto device = only_device(driver);
  const DeviceMapping mapping(DeviceMemory::create(device, kGranule), Access::read_write);
  StagedUpload upload(device, buffers, buffer_size);
  std::size_t offset = 0;
  for (const std::size_t length : {0U, 1U, 4096U, 70'000U, 5U}) {
    const std::vector<std::byte> piece = pattern(length, offset);
    upload.write(mapping, offset, piece);
    offset += length;
  }
  upload.finish();
  EXPECT_TRUE(has_pattern(bytes_at(mapping.address(), offset), 0));
}

INSTANTIATE_TEST_SUITE_P(of_buffers, Ring,
                         ::testing::Values(std::pair{1, 1000}, std::pair{2, 4096}, std::pair{3, 1 << 20U}));

TEST(StagedUpload, copies_that_were_begun_are_made_before_an_upload_is_gone) {
  FakeDriver driver;
  {
    const auto device = only_device(driver);
    const DeviceMapping mapping(DeviceMemory::create(device, kGranule), Access::read_write);
    StagedUpload(device, 2, 512).write(mapping, 0, pattern(1500, 0));
    EXPECT_TRUE(has_pattern(bytes_at(mapping.address(), 1500), 0));
  }
  EXPECT_EQ(driver.complaints(), "");
}

TEST(StagedUpload, bytes_that_do_not_fit_are_refused_before_any_is_copied) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const DeviceMemory memory = DeviceMemory::create(device, kGranule);
  const DeviceMapping writable(memory, Access::read_write);
  const DeviceMapping readable(memory, Access::read);
  StagedUpload upload(device, 2, 512);
  EXPECT_EQ(refusal([&] { upload.write(writable, kGranule - 1000, pattern(1001, 0)); }).code(),
            Error::Code::out_of_bounds);
  EXPECT_EQ(refusal([&] { upload.write(readable, 0, pattern(1, 0)); }).code(), Error::Code::read_only_memory);
  upload.finish();
  EXPECT_FALSE(driver.calls().contains("cuMemcpyHtoDAsync"));
  upload.write(writable, 0, pattern(1, 0));
  upload.finish();
  EXPECT_TRUE(has_pattern(bytes_at(readable.address(), 1), 0));
}

TEST(StagedUpload, uploads_in_several_threads_do_not_disturb_each_other) {
  FakeDriver driver;
  {
    const auto device = only_device(driver);
    const DeviceMapping mapping(DeviceMemory::create(device, kGranule), Access::read_write);
    constexpr std::size_t each = 100'000;
    constexpr std::size_t uploads = 4;
    std::vector<std::thread> threads;
    threads.reserve(uploads);
    for (std::size_t nth = 0; nth < uploads; ++nth) {
      threads.emplace_back([&, nth] {
        StagedUpload upload(device, 2, 4096);
        upload.write(mapping, nth * each, pattern(each, nth * each));
        upload.finish();
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    EXPECT_TRUE(has_pattern(bytes_at(mapping.address(), uploads * each), 0));
  }
  EXPECT_EQ(driver.complaints(), "");
}

}  // namespace
}  // namespace zerocopy
