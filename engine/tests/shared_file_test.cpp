#include "zerocopy/shared_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "child_process.h"
#include "folder.h"
#include "image_file.h"
#include "process_state.h"
#include "shared_file.h"
#include "zerocopy/error.h"
#include "zerocopy/view.h"

namespace zerocopy {
namespace {

using testing::open_descriptors;
using testing::problem_in_child;
using testing::TemporaryFile;
using testing::text_of;

Error error_of_opening(const std::string& path) {
  try {
    SharedFile::open(path);
  } catch (const Error& error) {
    return error;
  }
  return {Error::Code::out_of_bounds, "it was opened"};
}

TEST(SharedFile, the_bytes_are_those_of_the_file) {
  const TemporaryFile file("what is in it");
  const auto opened = SharedFile::open(file.path());
  EXPECT_EQ(text_of(opened->bytes()), "what is in it");
  EXPECT_EQ(opened->name(), file.path());
}

TEST(SharedFile, an_empty_file_has_no_bytes) {
  const TemporaryFile file("");
  EXPECT_TRUE(SharedFile::open(file.path())->bytes().empty());
}

TEST(SharedFile, the_bytes_remain_when_the_file_is_removed_or_replaced) {
  const TemporaryFile file("first");
  const auto opened = SharedFile::open(file.path());
  const TemporaryFile other("other");
  std::filesystem::rename(other.path(), file.path());
  EXPECT_EQ(text_of(opened->bytes()), "first");
  const auto replaced = SharedFile::open(file.path());
  std::filesystem::remove(file.path());
  EXPECT_EQ(text_of(replaced->bytes()), "other");
}

TEST(SharedFile, a_file_that_is_not_there_or_cannot_be_mapped_is_an_error_with_its_name_and_errno) {
  const Error missing = error_of_opening("/none/of/these");
  EXPECT_EQ(missing.code(), Error::Code::system_call);
  EXPECT_EQ(missing.system_error(), ENOENT);
  EXPECT_EQ(std::string_view(missing.what()), "/none/of/these cannot be opened: No such file or directory");
  const Error directory = error_of_opening("/tmp");
  EXPECT_EQ(directory.code(), Error::Code::system_call);
  EXPECT_EQ(directory.system_error(), EISDIR);
}

TEST(SharedFile, neither_a_pipe_nor_a_device_is_waited_for_or_mapped) {
  const testing::Folder folder;
  const std::string pipe = folder.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), S_IRUSR | S_IWUSR), 0);
  for (const std::string& path : {pipe, std::string("/dev/zero")}) {
    EXPECT_EQ(error_of_opening(path).code(), Error::Code::not_an_image);
  }
}

TEST(SharedFile, a_memfd_is_taken_over_and_closed_with_the_object) {
  const std::size_t before = open_descriptors();
  const int memory = ::memfd_create("weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(::write(memory, "sealed", 6), 6);
  ASSERT_EQ(::fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
  {
    const auto adopted = SharedFile::adopt(memory, "weights of the test");
    EXPECT_EQ(text_of(adopted->bytes()), "sealed");
    EXPECT_EQ(adopted->name(), "weights of the test");
    EXPECT_EQ(open_descriptors(), before + 1);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(SharedFile, a_descriptor_that_cannot_be_mapped_is_closed_too) {
  const std::size_t before = open_descriptors();
  const int directory = ::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_NE(directory, -1);
  EXPECT_THROW(SharedFile::adopt(directory, "a directory"), Error);
  EXPECT_EQ(open_descriptors(), before);
}

TEST(SharedFile, a_view_of_the_bytes_shares_their_pages_and_keeps_its_writes) {
  const TemporaryFile file(std::string(3 * testing::page_size() + 5, 'x'));
  auto opened = SharedFile::open(file.path());
  const std::span<const std::byte> bytes = opened->bytes();
  View view(std::array{bytes}, opened);
  EXPECT_EQ(view.private_copy_reason(), "");
  EXPECT_EQ(view.copied_bytes(), 0U);
  view.segment(0)[0] = std::byte{'y'};
  EXPECT_EQ(view.diverged_bytes(), testing::page_size());
  EXPECT_EQ(bytes[0], std::byte{'x'});
}

TEST(SharedFile, a_forked_child_reads_the_bytes_and_may_let_go_of_them) {
  const TemporaryFile file("for both");
  auto opened = SharedFile::open(file.path());
  EXPECT_EQ(problem_in_child([&] {
              std::string problem = text_of(opened->bytes()) == "for both" ? "" : "other bytes";
              opened.reset();
              return problem;
            }),
            "");
  EXPECT_EQ(text_of(opened->bytes()), "for both");
}

}  // namespace
}  // namespace zerocopy
