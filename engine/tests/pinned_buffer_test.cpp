#include "device/pinned_buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "attempt.h"
#include "fake_driver.h"

namespace zerocopy {
namespace {

using testing::FakeDriver;
using testing::refusal;

TEST(PinnedBuffer, a_buffer_has_its_size_and_can_be_written_to) {
  FakeDriver driver;
  {
    PinnedBuffer first(only_device(driver), 1000);
    const PinnedBuffer second = std::move(first);
    ASSERT_EQ(second.bytes().size(), 1000U);
    std::ranges::fill(second.bytes(), std::byte{1});
  }
  EXPECT_EQ(driver.complaints(), "");
}

TEST(PinnedBuffer, a_buffer_that_cannot_be_had_is_an_error) {
  FakeDriver driver;
  const Error error = refusal([&] { const PinnedBuffer buffer(only_device(driver), 0); });
  EXPECT_EQ(error.code(), Error::Code::device_call);
  EXPECT_EQ(driver.complaints(), "");
}

}  // namespace
}  // namespace zerocopy
