#include "window/placement.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "zerocopy/error.h"

namespace zerocopy {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kSmallest = std::numeric_limits<std::int64_t>::min();

template <typename Check>
bool is_refused(Check check) {
  try {
    check();
  } catch (const Error& error) {
    return error.code() == Error::Code::out_of_bounds;
  }
  return false;
}

TEST(PartOf, bytes_within_are_given_at_their_place) {
  std::array<std::byte, 10> bytes{};
  EXPECT_EQ(part_of(bytes, 3, 7).data(), &bytes[3]);
  EXPECT_EQ(part_of(bytes, 3, 7).size(), 7U);
  EXPECT_EQ(part_of(bytes, 10, 0).size(), 0U);
}

TEST(PartOf, what_is_outside_is_refused) {
  std::array<std::byte, 10> bytes{};
  for (const auto [offset, length] : std::vector<std::array<std::int64_t, 2>>{{-1, 1},
                                                                              {0, -1},
                                                                              {0, 11},
                                                                              {10, 1},
                                                                              {11, 0},
                                                                              {4, 7},
                                                                              {kLargest, kLargest},
                                                                              {kSmallest, kSmallest},
                                                                              {1, kLargest}}) {
    EXPECT_TRUE(is_refused([&] { part_of(bytes, offset, length); })) << offset << ' ' << length;
  }
}

struct Case {
  std::int64_t offset;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  std::int64_t item_size;
};

// In forty bytes, counted by fours.
bool is_refused(const Case& given) {
  return is_refused([&] { check_placement({given.offset, given.shape, given.strides, 4, given.item_size}, 40); });
}

TEST(CheckPlacement, arrays_within_their_bytes_are_taken) {
  for (const Case& taken : std::vector<Case>{
           {0, {10}, {1}, 4},
           {9, {10}, {-1}, 4},
           {0, {2, 5}, {5, 1}, 4},
           {4, {2, 5}, {5, -1}, 4},
           {8, {}, {}, 8},
           {0, {1000}, {0}, 4},
           {9, {1}, {kLargest}, 4},
           {1000, {3, 0}, {kLargest, kSmallest}, 4},
           {1000, {3}, {1}, 0},
       }) {
    EXPECT_FALSE(is_refused(taken)) << taken.offset;
  }
}

TEST(CheckPlacement, arrays_that_reach_outside_are_refused) {
  for (const Case& refused : std::vector<Case>{
           {0, {11}, {1}, 4},
           {1, {10}, {1}, 4},
           {0, {10}, {1}, 8},
           {8, {10}, {-1}, 4},
           {-1, {1}, {1}, 4},
           {-1, {0}, {1}, 4},
           {0, {2}, {1, 1}, 4},
           {0, {2, 2}, {1}, 4},
           {0, {-1}, {1}, 4},
           {0, {0, -1}, {1, 1}, 4},
           {0, {1}, {1}, -4},
           {0, {kLargest}, {0}, 4},
           {0, {1LL << 32, 1LL << 32}, {0, 0}, 1},
           {0, {0, 1LL << 32, 1LL << 32}, {0, 0, 0}, 1},
           {0, {3}, {kLargest}, 4},
           {0, {3}, {kSmallest}, 4},
           {kLargest, {1}, {1}, 4},
           {kLargest, {2}, {1}, 4},
           {5, {3, 3}, {kLargest, kSmallest}, 4},
       }) {
    EXPECT_TRUE(is_refused(refused)) << refused.offset << " of " << refused.shape.size() << " axes";
  }
}

TEST(CheckFills, only_arrays_of_just_that_size_are_taken) {
  const auto is_refused_with = [](std::vector<std::int64_t> shape, std::int64_t item_size, std::int64_t nbytes) {
    return is_refused([&] { check_fills(shape, item_size, nbytes); });
  };
  EXPECT_FALSE(is_refused_with({2, 5}, 4, 40));
  EXPECT_FALSE(is_refused_with({}, 4, 4));
  EXPECT_FALSE(is_refused_with({0, 5}, 4, 0));
  EXPECT_TRUE(is_refused_with({2, 5}, 4, 39));
  EXPECT_TRUE(is_refused_with({2, 5}, 4, 41));
  EXPECT_TRUE(is_refused_with({-2, -5}, 4, 40));
  EXPECT_TRUE(is_refused_with({1LL << 32, 1LL << 32, 1}, 1, 0));
  EXPECT_TRUE(is_refused_with({1}, -1, 0));
}

}  // namespace
}  // namespace zerocopy
