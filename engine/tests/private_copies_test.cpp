#include "window/private_copies.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "system/page_range.h"

namespace zerocopy {
namespace {

class PrivateCopiesTest : public ::testing::Test {
 protected:
  PrivateCopiesTest() {
    for (std::size_t at = 0; at < bytes_.size(); ++at) {
      bytes_[at] = static_cast<std::byte>(at * 7);
    }
  }

  [[nodiscard]] std::span<const std::byte> part(std::size_t begin, std::size_t end) const {
    return std::span(bytes_).subspan(begin, end - begin);
  }

  std::vector<std::byte> bytes_ = std::vector<std::byte>(1000);
};

TEST_F(PrivateCopiesTest, each_copy_has_the_bytes_of_its_source_on_an_aligned_address) {
  const std::vector<std::span<const std::byte>> sources{part(701, 800), part(0, 1), part(100, 333)};
  const PrivateCopies copies(sources);
  for (std::size_t index = 0; index < sources.size(); ++index) {
    EXPECT_TRUE(std::ranges::equal(copies.at(index), sources[index]));
    EXPECT_NE(copies.at(index).data(), sources[index].data());
    EXPECT_EQ(address_of(copies.at(index).data()) % 64, 0U);
  }
}

TEST_F(PrivateCopiesTest, sources_that_overlap_have_copies_that_overlap) {
  const std::vector<std::span<const std::byte>> sources{part(150, 180), part(100, 200), part(190, 300), part(100, 200)};
  const PrivateCopies copies(sources);
  EXPECT_EQ(copies.at(0).data(), copies.at(1).data() + 50);
  EXPECT_EQ(copies.at(2).data(), copies.at(1).data() + 90);
  EXPECT_EQ(copies.at(3).data(), copies.at(1).data());
  for (std::size_t index = 0; index < sources.size(); ++index) {
    EXPECT_TRUE(std::ranges::equal(copies.at(index), sources[index]));
  }
}

TEST_F(PrivateCopiesTest, sources_that_only_touch_have_copies_of_their_own) {
  const PrivateCopies copies({part(0, 10), part(10, 20)});
  EXPECT_EQ(address_of(copies.at(0).data()) % 64, 0U);
  EXPECT_EQ(address_of(copies.at(1).data()) % 64, 0U);
}

TEST_F(PrivateCopiesTest, copying_again_brings_the_sources_back) {
  PrivateCopies copies({part(0, 500), part(600, 601)});
  copies.at(0)[3] = std::byte{99};
  copies.at(1)[0] = std::byte{99};
  bytes_[4] = std::byte{42};
  copies.copy_again();
  EXPECT_TRUE(std::ranges::equal(copies.at(0), part(0, 500)));
  EXPECT_TRUE(std::ranges::equal(copies.at(1), part(600, 601)));
  EXPECT_EQ(copies.at(0)[4], std::byte{42});
}

}  // namespace
}  // namespace zerocopy
