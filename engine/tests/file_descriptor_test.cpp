#include "system/file_descriptor.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <utility>

namespace zerocopy {
namespace {

int open_null() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }

bool is_open(int number) { return ::fcntl(number, F_GETFD) != -1; }

TEST(FileDescriptor, a_descriptor_is_closed_when_its_owner_goes) {
  const int number = open_null();
  {
    const FileDescriptor owner(number);
    EXPECT_EQ(owner.number(), number);
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(FileDescriptor, an_owner_of_nothing_says_so_and_closes_nothing) { EXPECT_EQ(FileDescriptor().number(), -1); }

TEST(FileDescriptor, moving_hands_the_descriptor_over) {
  const int number = open_null();
  FileDescriptor first(number);
  {
    const FileDescriptor second(std::move(first));
    EXPECT_EQ(second.number(), number);
    EXPECT_EQ(first.number(), -1);  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move): what a moved-from
                                    // one says is what is tested.
  }
  EXPECT_FALSE(is_open(number));
}

TEST(FileDescriptor, assignment_closes_what_was_owned_before) {
  const int old = open_null();
  const int number = open_null();
  FileDescriptor owner(old);
  owner = FileDescriptor(number);
  EXPECT_FALSE(is_open(old));
  EXPECT_TRUE(is_open(number));
}

TEST(FileDescriptor, assignment_to_itself_keeps_the_descriptor) {
  const int number = open_null();
  FileDescriptor owner(number);
  FileDescriptor& same = owner;
  owner = std::move(same);
  EXPECT_EQ(owner.number(), number);
  EXPECT_TRUE(is_open(number));
}

}  // namespace
}  // namespace zerocopy
