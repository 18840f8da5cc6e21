#include "fake_driver.h"

#include <gtest/gtest.h>

#include <csignal>
#include <string>
#include <thread>

#include "child_process.h"

namespace zerocopy {
namespace {

using cuda::CUresult;
using testing::bytes_at;
using testing::FakeDriver;
using testing::FakeGpu;
using testing::problem_in_child;

constexpr std::size_t kGranule = FakeDriver::kGranularity;

// A driver with a current context, to be misused.
class Fake : public ::testing::Test {
 protected:
  Fake() {
    driver_.initialize();
    driver_.push_context(driver_.retain_primary_context(0).value);
  }

  cuda::CUdeviceptr mapped(Access access) {
    const auto memory = driver_.create_memory(0, kGranule).value;
    const cuda::CUdeviceptr address = driver_.reserve_addresses(kGranule).value;
    driver_.map_memory(address, kGranule, memory);
    driver_.set_access(address, kGranule, 0, access);
    return address;
  }

  FakeDriver driver_{{FakeGpu{.capacity = 3 * kGranule}}};
};

TEST_F(Fake, memory_comes_in_whole_granules) {
  EXPECT_EQ(driver_.create_memory(0, kGranule + 4096).error, CUresult::invalid_value);
  EXPECT_EQ(driver_.create_memory(0, 0).error, CUresult::invalid_value);
  EXPECT_EQ(driver_.reserve_addresses(4096).error, CUresult::invalid_value);
  EXPECT_TRUE(driver_.create_memory(0, kGranule).ok());
}

TEST_F(Fake, memory_ends_where_the_device_does) {
  const auto first = driver_.create_memory(0, 2 * kGranule);
  EXPECT_TRUE(first.ok());
  EXPECT_EQ(driver_.create_memory(0, 2 * kGranule).error, CUresult::out_of_memory);
  driver_.release_memory(first.value);
  EXPECT_TRUE(driver_.create_memory(0, 2 * kGranule).ok());
}

TEST_F(Fake, memory_is_mapped_at_reserved_addresses_only) {
  const auto memory = driver_.create_memory(0, kGranule).value;
  EXPECT_EQ(driver_.map_memory(kGranule, kGranule, memory), CUresult::invalid_value);
  const cuda::CUdeviceptr address = driver_.reserve_addresses(kGranule).value;
  EXPECT_EQ(driver_.map_memory(address, 2 * kGranule, memory), CUresult::invalid_value);
  EXPECT_EQ(driver_.map_memory(address, kGranule, memory), CUresult::success);
  EXPECT_EQ(driver_.map_memory(address, kGranule, memory), CUresult::invalid_value);
  EXPECT_EQ(driver_.free_addresses(address, kGranule), CUresult::invalid_value);
}

// What a child dies of when it writes there.
std::string write_in_child(cuda::CUdeviceptr address) {
  return problem_in_child([&]() -> std::string {
    static_cast<void>(std::signal(SIGSEGV, SIG_DFL));
    volatile std::byte* const byte = bytes_at(address, 1).data();
    *byte = std::byte{1};
    return "";
  });
}

TEST_F(Fake, a_program_may_do_with_memory_what_access_it_has) {
  const std::string fault = " (the child ended with status " + std::to_string(SIGSEGV) + ")";
  EXPECT_EQ(write_in_child(mapped(Access::read_write)), "");
  EXPECT_EQ(write_in_child(mapped(Access::read)), fault);
  const auto memory = driver_.create_memory(0, kGranule).value;
  const cuda::CUdeviceptr address = driver_.reserve_addresses(kGranule).value;
  driver_.map_memory(address, kGranule, memory);
  EXPECT_EQ(write_in_child(address), fault);
}

TEST_F(Fake, a_copy_needs_the_access_that_a_program_would) {
  auto* const stream = driver_.create_stream().value;
  std::byte byte{};
  EXPECT_EQ(driver_.copy_to_device(mapped(Access::read), {&byte, 1}, stream), CUresult::invalid_value);
  EXPECT_EQ(driver_.copy_to_host({&byte, 1}, kGranule, stream), CUresult::invalid_value);
}

TEST_F(Fake, what_is_not_known_is_not_given_back) {
  EXPECT_EQ(driver_.complaints().find("cuMem"), std::string::npos);
  const auto memory = driver_.create_memory(0, kGranule).value;
  EXPECT_EQ(driver_.release_memory(memory), CUresult::success);
  EXPECT_EQ(driver_.release_memory(memory), CUresult::invalid_value);
  EXPECT_EQ(driver_.unmap_memory(kGranule, kGranule), CUresult::invalid_value);
  EXPECT_EQ(driver_.free_addresses(kGranule, kGranule), CUresult::invalid_value);
  EXPECT_EQ(driver_.free_host_memory(nullptr), CUresult::invalid_value);
  EXPECT_EQ(driver_.unregister_host_memory(nullptr), CUresult::host_memory_not_registered);
  EXPECT_EQ(driver_.destroy_stream(nullptr), CUresult::invalid_value);
  EXPECT_EQ(driver_.destroy_event(nullptr), CUresult::invalid_value);
  EXPECT_NE(driver_.complaints().find("cuMemRelease of an unknown handle"), std::string::npos);
}

TEST_F(Fake, memory_that_a_copy_reads_or_writes_must_stay) {
  auto* const stream = driver_.create_stream().value;
  const cuda::CUdeviceptr address = mapped(Access::read_write);
  std::byte* const buffer = driver_.allocate_host_memory(16).value;
  EXPECT_EQ(driver_.copy_to_device(address, {buffer, 16}, stream), CUresult::success);
  EXPECT_EQ(driver_.free_host_memory(buffer), CUresult::invalid_value);
  EXPECT_EQ(driver_.unmap_memory(address, kGranule), CUresult::invalid_value);
  EXPECT_EQ(driver_.synchronize(stream), CUresult::success);
  EXPECT_EQ(driver_.free_host_memory(buffer), CUresult::success);
  EXPECT_EQ(driver_.unmap_memory(address, kGranule), CUresult::success);
}

TEST_F(Fake, a_copy_of_pinned_memory_is_made_when_somebody_waits_for_it) {
  auto* const stream = driver_.create_stream().value;
  const cuda::CUdeviceptr address = mapped(Access::read_write);
  std::byte* const buffer = driver_.allocate_host_memory(1).value;
  driver_.copy_to_device(address, {buffer, 1}, stream);
  *buffer = std::byte{7};
  driver_.synchronize(stream);
  EXPECT_EQ(bytes_at(address, 1)[0], std::byte{7});
}

TEST_F(Fake, a_context_is_current_in_one_thread) {
  std::thread([&] { EXPECT_EQ(driver_.create_memory(0, kGranule).error, CUresult::invalid_context); }).join();
  EXPECT_TRUE(driver_.create_memory(0, kGranule).ok());
}

TEST_F(Fake, nothing_works_in_a_forked_child) {
  EXPECT_EQ(problem_in_child([&] { return driver_.name_of(driver_.create_memory(0, kGranule).error); }),
            "CUDA_ERROR_NOT_INITIALIZED");
}

TEST(FakeDriver, nothing_works_before_it_is_initialized) {
  FakeDriver driver;
  EXPECT_EQ(driver.device_count().error, CUresult::not_initialized);
  EXPECT_EQ(driver.retain_primary_context(0).error, CUresult::not_initialized);
}

}  // namespace
}  // namespace zerocopy
