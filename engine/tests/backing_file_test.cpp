#include "system/backing_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "attempt.h"
#include "child_process.h"
#include "forwarding_system.h"
#include "shared_file.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using testing::Bystander;
using testing::ForwardingSystem;
using testing::Mapped;
using testing::page_size;
using testing::problem_in_child;
using testing::refusal;
using testing::SharedFile;

System& real = System::real();

Error refusal_of(const FileId& file, System& system) {
  return refusal([&] { BackingFile::find(file, system); });
}

TEST(BackingFile, a_file_that_this_process_holds_open_is_found) {
  const SharedFile file(2);
  const std::shared_ptr<const BackingFile> found = BackingFile::find(file.id(), real);
  EXPECT_EQ(found->id(), file.id());
  EXPECT_EQ(found->size(), file.length());
}

TEST(BackingFile, its_descriptor_is_a_new_one_for_reading_only) {
  const SharedFile file(1);
  const std::shared_ptr<const BackingFile> found = BackingFile::find(file.id(), real);
  EXPECT_NE(found->descriptor(), file.descriptor());
  EXPECT_EQ(::fcntl(found->descriptor(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(found->descriptor(), F_GETFD), FD_CLOEXEC);
}

TEST(BackingFile, a_file_that_only_the_parent_holds_open_is_found) {
  SharedFile file(1);
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              const FileId id = file.id();
              file.close();
              return BackingFile::find(id, real)->id() == id ? "" : "another file was found";
            }),
            "");
}

TEST(BackingFile, a_file_that_only_a_raylet_beside_this_process_holds_open_is_found) {
  SharedFile file(1);
  const FileId id = file.id();
  const Bystander raylet("raylet");
  file.close();
  EXPECT_EQ(BackingFile::find(id, real)->id(), id);
}

TEST(BackingFile, a_process_of_another_name_is_not_asked) {
  SharedFile file(1);
  const FileId id = file.id();
  const Bystander other("rayletx");
  file.close();
  EXPECT_EQ(refusal_of(id, real).code(), Error::Code::not_held_open);
}

TEST(BackingFile, a_raylet_of_another_user_is_not_asked) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can be another user";
  }
  SharedFile file(1);
  const FileId id = file.id();
  const Bystander raylet("raylet");
  file.close();
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              if (::seteuid(65534) != 0) {
                return "seteuid failed";
              }
              return refusal_of(id, real).code() == Error::Code::not_held_open ? "" : "another refusal";
            }),
            "");
}

TEST(BackingFile, a_file_that_nobody_holds_open_is_refused_by_its_number) {
  SharedFile file(1);
  const FileId id = file.id();
  const Mapped mapped = file.map();
  file.close();
  const Error error = refusal_of(id, real);
  EXPECT_EQ(error.code(), Error::Code::not_held_open);
  EXPECT_NE(std::string(error.what()).find("inode " + std::to_string(id.inode)), std::string::npos) << error.what();
}

TEST(BackingFile, a_device_is_refused) {
  const FileDescriptor device(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(refusal_of(real.status(device.number()).value.id, real).code(), Error::Code::not_mappable);
}

TEST(BackingFile, a_file_of_huge_pages_is_refused) {
  class Huge : public ForwardingSystem {
   public:
    Result<FileStatus> status(int descriptor) override {
      Result<FileStatus> status = ForwardingSystem::status(descriptor);
      status.value.on_huge_pages = true;
      return status;
    }
  } huge;
  const SharedFile file(1);
  EXPECT_EQ(refusal_of(file.id(), huge).code(), Error::Code::not_mappable);
}

TEST(BackingFile, a_file_that_cannot_be_examined_is_an_error_with_its_errno) {
  class Broken : public ForwardingSystem {
   public:
    Result<FileStatus> status(int /*descriptor*/) override { return {{}, EIO}; }
  } broken;
  const SharedFile file(1);
  EXPECT_EQ(refusal_of(file.id(), broken).code(), Error::Code::system_call);
}

TEST(BackingFile, where_the_own_descriptor_may_not_be_opened_the_raylets_is) {
  class Forbidden : public ForwardingSystem {
   public:
    Result<FileDescriptor> open_held_file(int process, const FileId& file) override {
      return process == process_id() ? Result<FileDescriptor>{{}, EACCES}
                                     : ForwardingSystem::open_held_file(process, file);
    }
  } forbidden;
  const SharedFile file(1);
  const Bystander raylet("raylet");
  EXPECT_EQ(BackingFile::find(file.id(), forbidden)->id(), file.id());
}

TEST(BackingFile, a_file_is_opened_once_for_all_who_hold_it) {
  const SharedFile file(1);
  std::vector<std::shared_ptr<const BackingFile>> found(16);
  std::vector<std::thread> threads;
  threads.reserve(found.size());
  for (std::shared_ptr<const BackingFile>& one : found) {
    threads.emplace_back([&one, &file] { one = BackingFile::find(file.id(), real); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const std::shared_ptr<const BackingFile>& one : found) {
    EXPECT_EQ(one, found.front());
  }
}

TEST(BackingFile, a_file_is_closed_when_its_last_holder_goes_and_can_be_found_again) {
  const SharedFile file(1);
  std::shared_ptr<const BackingFile> found = BackingFile::find(file.id(), real);
  const int number = found->descriptor();
  found.reset();
  EXPECT_EQ(::fcntl(number, F_GETFD), -1);
  EXPECT_EQ(BackingFile::find(file.id(), real)->id(), file.id());
}

TEST(BackingFile, the_size_is_what_the_file_has_now) {
  const SharedFile file(1);
  const std::shared_ptr<const BackingFile> found = BackingFile::find(file.id(), real);
  ASSERT_EQ(::ftruncate(file.descriptor(), static_cast<off_t>(5 * page_size())), 0);
  EXPECT_EQ(found->size(), 5 * page_size());
}

TEST(BackingFile, a_child_can_find_files_though_it_was_forked_while_a_thread_was_finding_one) {
  const SharedFile file(1);
  std::atomic<bool> stop{false};
  std::thread finder([&] {
    while (!stop) {
      BackingFile::find(file.id(), real);
    }
  });
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(problem_in_child([&]() -> std::string {
                return BackingFile::find(file.id(), real)->id() == file.id() ? "" : "another file was found";
              }),
              "");
  }
  stop = true;
  finder.join();
}

}  // namespace
}  // namespace zerocopy
