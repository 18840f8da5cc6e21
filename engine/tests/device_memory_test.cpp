#include "device/device_memory.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attempt.h"
#include "child_process.h"
#include "device/device_mapping.h"
#include "device/staged_upload.h"
#include "fake_driver.h"
#include "shared_file.h"

namespace zerocopy {
namespace {

using cuda::CUresult;
using testing::bytes_at;
using testing::FakeDriver;
using testing::FakeGpu;
using testing::has_pattern;
using testing::pattern_at;
using testing::problem_in_child;
using testing::refusal;

constexpr std::size_t kGranule = FakeDriver::kGranularity;

std::vector<std::byte> pattern(std::size_t length) {
  std::vector<std::byte> bytes(length);
  for (std::size_t at = 0; at < length; ++at) {
    bytes[at] = pattern_at(at);
  }
  return bytes;
}

void upload(const DeviceMemory& memory, std::span<const std::byte> bytes) {
  const DeviceMapping mapping(memory, Access::read_write);
  StagedUpload upload(memory.device(), 2, std::size_t{256} << 10U);
  upload.write(mapping, 0, bytes);
  upload.finish();
}

TEST(DeviceMemory, sizes_are_rounded_up_to_what_the_device_allocates_at_once) {
  FakeDriver driver;
  const auto device = only_device(driver);
  EXPECT_EQ(DeviceMemory::create(device, 1).size(), kGranule);
  EXPECT_EQ(DeviceMemory::create(device, kGranule).size(), kGranule);
  EXPECT_EQ(DeviceMemory::create(device, kGranule + 1).size(), 2 * kGranule);
}

TEST(DeviceMemory, no_bytes_at_all_are_refused) {
  FakeDriver driver;
  EXPECT_EQ(refusal([&] { DeviceMemory::create(only_device(driver), 0); }).code(), Error::Code::device_call);
  EXPECT_EQ(driver.complaints(), "");
}

TEST(DeviceMemory, a_device_without_room_says_so) {
  FakeDriver driver({FakeGpu{.capacity = 2 * kGranule}});
  const auto device = only_device(driver);
  const DeviceMemory fits = DeviceMemory::create(device, 2 * kGranule);
  for (const std::size_t size : {std::size_t{1}, std::numeric_limits<std::size_t>::max()}) {
    const Error error = refusal([&] { DeviceMemory::create(device, size); });
    EXPECT_EQ(error.code(), Error::Code::device_call);
    EXPECT_EQ(error.system_error(), static_cast<int>(CUresult::out_of_memory));
    EXPECT_EQ(std::string(error.what()), std::to_string(size) + " bytes cannot be allocated on the device " +
                                             to_string(device->uuid()) + ": CUDA_ERROR_OUT_OF_MEMORY");
  }
}

TEST(DeviceMemory, memory_lives_while_a_handle_a_descriptor_or_a_mapping_is_left) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const auto used = [&] { return FakeDriver::used(device->uuid()); };
  std::optional<DeviceMemory> memory(DeviceMemory::create(device, kGranule));
  FileDescriptor shared = memory->share();
  std::optional<DeviceMapping> mapping(std::in_place, *memory, Access::read);
  EXPECT_EQ(used(), kGranule);
  memory.reset();
  EXPECT_EQ(used(), kGranule);
  mapping.reset();
  EXPECT_EQ(used(), kGranule);
  memory.emplace(DeviceMemory::import(device, shared.number(), kGranule));
  shared = {};
  EXPECT_EQ(used(), kGranule);
  mapping.emplace(*memory, Access::read);
  memory.reset();
  EXPECT_EQ(used(), kGranule);
  mapping.reset();
  EXPECT_EQ(used(), 0U);
}

TEST(DeviceMemory, a_descriptor_of_something_else_is_refused) {
  FakeDriver driver;
  const auto device = only_device(driver);
  const testing::SharedFile file(1);
  for (const int descriptor : {-1, file.descriptor()}) {
    const Error error = refusal([&] { DeviceMemory::import(device, descriptor, kGranule); });
    EXPECT_EQ(error.code(), Error::Code::device_call);
    EXPECT_NE(std::string(error.what()).find("the descriptor " + std::to_string(descriptor)), std::string::npos);
  }
}

TEST(DeviceMemory, memory_is_released_by_its_last_owner_only) {
  FakeDriver driver;
  {
    DeviceMemory first = DeviceMemory::create(only_device(driver), 1);
    const DeviceMemory second = std::move(first);
    EXPECT_TRUE(second.share().number() >= 0);
  }
  EXPECT_EQ(driver.complaints(), "");
}

// One descriptor, over a Unix socket.
void send_descriptor(int socket, int descriptor) {
  char byte = 0;
  iovec payload{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof descriptor)> control{};
  msghdr message{};
  message.msg_iov = &payload;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof descriptor);
  std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  ::sendmsg(socket, &message, 0);
}

FileDescriptor receive_descriptor(int socket) {
  char byte = 0;
  iovec payload{&byte, 1};
  int descriptor = -1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof descriptor)> control{};
  msghdr message{};
  message.msg_iov = &payload;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message) != nullptr) {
    std::memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
  }
  return FileDescriptor(descriptor);
}

// Another process, with a driver of its own, that uploads the pattern, sends a descriptor, and is killed as it waits.
FileDescriptor shared_by_killed_uploader(const FakeGpu& gpu, std::size_t length) {
  std::array<int, 2> sockets{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) != 0) {
    return {};
  }
  const FileDescriptor here(sockets[0]);
  FileDescriptor there(sockets[1]);
  const pid_t uploader = ::fork();
  if (uploader == 0) {
    ::alarm(30);
    FakeDriver driver({gpu});
    const DeviceMemory memory = DeviceMemory::create(only_device(driver), length);
    upload(memory, pattern(length));
    const DeviceMapping mapping(memory, Access::read_write);
    const FileDescriptor shared = memory.share();
    send_descriptor(there.number(), shared.number());
    ::pause();
    ::_exit(1);
  }
  there = {};
  FileDescriptor shared = receive_descriptor(here.number());
  ::kill(uploader, SIGKILL);
  ::waitpid(uploader, nullptr, 0);
  return shared;
}

TEST(DeviceMemory, a_killed_uploaders_memory_lives_with_whoever_holds_its_descriptor_and_no_driver) {
  constexpr std::size_t length = kGranule + 12'345;
  const FakeGpu gpu;
  FileDescriptor held = shared_by_killed_uploader(gpu, length);
  ASSERT_NE(held.number(), -1);
  EXPECT_EQ(FakeDriver::used(gpu.uuid), 2 * kGranule);
  for (int reader = 0; reader < 2; ++reader) {
    EXPECT_EQ(problem_in_child([&]() -> std::string {
                FakeDriver driver({gpu});
                {
                  const DeviceMemory memory = DeviceMemory::import(only_device(driver), held.number(), 2 * kGranule);
                  const DeviceMapping mapping(memory, Access::read);
                  if (!has_pattern(bytes_at(mapping.address(), length), 0)) {
                    return "other bytes";
                  }
                }
                return driver.complaints();
              }),
              "");
  }
  held = {};
  EXPECT_EQ(FakeDriver::used(gpu.uuid), 0U);
}

}  // namespace
}  // namespace zerocopy
