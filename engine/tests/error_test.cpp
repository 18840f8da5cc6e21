#include "zerocopy/error.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace zerocopy {
namespace {

TEST(Error, an_error_says_what_went_wrong_and_which_call_failed) {
  const Error error(Error::Code::system_call, "it failed", ENOMEM);
  EXPECT_EQ(error.code(), Error::Code::system_call);
  EXPECT_EQ(error.system_error(), ENOMEM);
  EXPECT_STREQ(error.what(), "it failed");
}

TEST(Error, an_error_of_no_system_call_has_no_errno) {
  EXPECT_EQ(Error(Error::Code::bad_segment, "").system_error(), 0);
}

}  // namespace
}  // namespace zerocopy
