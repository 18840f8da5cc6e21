#include "system/system.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "child_process.h"
#include "shared_file.h"

namespace zerocopy {
namespace {

using testing::Bystander;
using testing::has_pattern;
using testing::Mapped;
using testing::page_size;
using testing::SharedFile;

System& real = System::real();

TEST(System, files_are_opened_for_reading_only_and_closed_by_exec) {
  const Result<FileDescriptor> opened = real.open("/proc/self/maps");
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(::fcntl(opened.value.number(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(opened.value.number(), F_GETFD), FD_CLOEXEC);
}

TEST(System, a_file_that_is_not_there_gives_its_errno) {
  EXPECT_EQ(real.open("/proc/self/nothing").error, ENOENT);
  EXPECT_EQ(real.read_file("/proc/self/nothing").error, ENOENT);
  EXPECT_EQ(real.status(-1).error, EBADF);
}

TEST(System, a_file_longer_than_one_read_is_read_whole) {
  const SharedFile file(40);
  const std::string text = real.read_file("/proc/self/fd/" + std::to_string(file.descriptor())).value;
  EXPECT_EQ(text.size(), file.length());
  EXPECT_TRUE(has_pattern(std::as_bytes(std::span(text)), 0));
}

TEST(System, the_status_of_a_file_is_that_of_its_mapping) {
  const SharedFile file(2);
  const Result<FileStatus> status = real.status(file.descriptor());
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status.value.id, file.id());
  EXPECT_EQ(status.value.size, file.length());
  EXPECT_FALSE(status.value.on_huge_pages);
}

TEST(System, a_file_of_huge_pages_is_known_as_one) {
  const FileDescriptor file(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
  if (file.number() == -1) {
    GTEST_SKIP() << "this kernel has no huge pages";
  }
  EXPECT_TRUE(real.status(file.number()).value.on_huge_pages);
}

TEST(System, a_private_mapping_shows_the_file_at_its_offset) {
  const SharedFile file(3);
  const Result<std::byte*> mapped = real.map_private(file.descriptor(), page_size(), 2 * page_size(), nullptr);
  ASSERT_TRUE(mapped.ok());
  const Mapped owner(mapped.value, 2 * page_size());
  EXPECT_TRUE(has_pattern(owner.bytes(), page_size()));
}

TEST(System, a_private_mapping_can_be_put_into_reserved_address_space) {
  const SharedFile file(2);
  const Result<std::byte*> reserved = real.reserve(4 * page_size());
  ASSERT_TRUE(reserved.ok());
  const Mapped owner(reserved.value, 4 * page_size());
  std::byte* const place = reserved.value + page_size();
  EXPECT_EQ(real.map_private(file.descriptor(), 0, file.length(), place).value, place);
  EXPECT_TRUE(has_pattern({place, file.length()}, 0));
}

TEST(System, a_mapping_that_the_kernel_refuses_gives_its_errno) {
  EXPECT_EQ(real.map_private(-1, 0, page_size(), nullptr).error, EBADF);
  EXPECT_EQ(real.reserve(SIZE_MAX / 2 / page_size() * page_size()).error, ENOMEM);
}

TEST(System, discarded_pages_show_the_file_again) {
  const SharedFile file(1);
  const Mapped owner(real.map_private(file.descriptor(), 0, page_size(), nullptr).value, page_size());
  owner.bytes()[5] = ~owner.bytes()[5];
  EXPECT_FALSE(has_pattern(owner.bytes(), 0));
  EXPECT_EQ(real.discard(owner.bytes()), 0);
  EXPECT_TRUE(has_pattern(owner.bytes(), 0));
}

TEST(System, this_process_is_among_those_of_its_user) {
  const std::vector<int> processes = real.processes().value;
  EXPECT_TRUE(std::ranges::find(processes, ::getpid()) != processes.end());
  EXPECT_TRUE(std::ranges::find(processes, real.process_id()) != processes.end());
}

TEST(System, processes_of_another_user_are_left_out) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can be another user";
  }
  const int test = ::getpid();
  EXPECT_EQ(testing::problem_in_child([&]() -> std::string {
              if (::seteuid(65534) != 0) {
                return "seteuid failed";
              }
              const std::vector<int> processes = real.processes().value;
              return std::ranges::find(processes, test) != processes.end() ? "root's process is in the list" : "";
            }),
            "");
}

TEST(System, a_process_is_known_by_its_name) {
  const Bystander bystander("some name");
  EXPECT_EQ(real.process_name(bystander.process()).value, "some name");
}

TEST(System, a_held_file_is_opened_anew_for_reading_only) {
  const SharedFile file(1);
  const Result<FileDescriptor> opened = real.open_held_file(::getpid(), file.id());
  ASSERT_TRUE(opened.ok());
  EXPECT_NE(opened.value.number(), file.descriptor());
  EXPECT_EQ(::fcntl(opened.value.number(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(opened.value.number(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(real.status(opened.value.number()).value.id, file.id());
}

TEST(System, a_file_that_is_not_held_is_not_there) {
  SharedFile file(1);
  const FileId id = file.id();
  file.close();
  EXPECT_EQ(real.open_held_file(::getpid(), id).error, ENOENT);
}

TEST(System, a_device_is_told_from_a_file_and_not_opened) {
  const FileDescriptor device(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const FileId id = real.status(device.number()).value.id;
  EXPECT_EQ(real.open_held_file(::getpid(), id).error, ENODEV);
}

TEST(System, a_process_that_is_gone_holds_nothing) {
  const int gone = Bystander("gone").process();  // Ended by its destructor.
  EXPECT_EQ(real.open_held_file(gone, {0, 1, 2}).error, ENOENT);
  EXPECT_EQ(real.process_name(gone).error, ENOENT);
}

TEST(System, a_pipe_hangs_up_when_no_process_has_its_write_end_any_more) {
  constexpr std::chrono::milliseconds at_once{0};
  constexpr std::chrono::milliseconds in_time{10'000};
  Pipe open = real.open_pipe().value;
  Pipe closing = real.open_pipe().value;
  EXPECT_EQ(::fcntl(open.write.number(), F_GETFD), FD_CLOEXEC);
  const std::array<int, 2> both{open.read.number(), closing.read.number()};
  {
    const Bystander other("other");
    closing.write = {};
    EXPECT_EQ(real.wait_for_hangup(both, at_once).value, std::vector<int>{});
  }
  EXPECT_EQ(real.wait_for_hangup(both, in_time).value, std::vector<int>{closing.read.number()});
}

TEST(System, a_thread_that_blocks_signals_takes_none) {
  std::thread([] {
    real.block_signals();
    sigset_t blocked;
    ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, nullptr, &blocked), 0);
    EXPECT_EQ(::sigismember(&blocked, SIGINT), 1);
    EXPECT_EQ(::sigismember(&blocked, SIGTERM), 1);
  }).join();
  sigset_t blocked;
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, nullptr, &blocked), 0);
  EXPECT_EQ(::sigismember(&blocked, SIGINT), 0);
}

}  // namespace
}  // namespace zerocopy
