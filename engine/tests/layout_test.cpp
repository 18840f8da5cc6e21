#include "image/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "image/format.h"

namespace zerocopy {
namespace {

using Source = Layout::Source;
using format::kPage;

class Layouts : public ::testing::Test {
 protected:
  [[nodiscard]] std::span<const std::byte> bytes(std::size_t offset, std::size_t length) const {
    return std::span(memory_).subspan(offset, length);
  }

  [[nodiscard]] const std::byte* at(std::size_t offset) const { return &memory_[offset]; }

 private:
  std::vector<std::byte> memory_ = std::vector<std::byte>(1U << 20U);
};

TEST_F(Layouts, nothing_has_no_segments) {
  const Layout layout({});
  EXPECT_TRUE(layout.places().empty());
  EXPECT_TRUE(layout.segments().empty());
}

TEST_F(Layouts, blocks_without_bytes_lie_nowhere) {
  const Layout layout(std::array{Source{{}, {0}}, Source{bytes(100, 0), {0}}});
  ASSERT_EQ(layout.places().size(), 2U);
  EXPECT_EQ(layout.places()[0].segment, std::nullopt);
  EXPECT_EQ(layout.places()[1].segment, std::nullopt);
  EXPECT_TRUE(layout.segments().empty());
}

TEST_F(Layouts, large_runs_begin_at_pages_and_small_ones_follow_at_multiples_of_64_bytes) {
  const Layout layout(std::array{Source{bytes(0, 10), {}}, Source{bytes(100, 65'537), {}},
                                 Source{bytes(70'000, 65'536), {}}, Source{bytes(200'000, 100'000), {}},
                                 Source{bytes(400'000, 65), {}}});
  ASSERT_EQ(layout.segments().size(), 1U);
  const auto offset = [&](std::size_t number) { return layout.places()[number].offset; };
  EXPECT_EQ(offset(1), 0U);
  EXPECT_EQ(offset(3), 17 * kPage);
  EXPECT_EQ(offset(0), aligned(17 * kPage + 100'000, 64));
  EXPECT_EQ(offset(2), offset(0) + 64);
  EXPECT_EQ(offset(4), offset(2) + 65'536);
  EXPECT_EQ(layout.segments()[0].nbytes, aligned(offset(4) + 65, kPage));
}

TEST_F(Layouts, blocks_that_touch_are_joined_on_demand_where_the_same_roots_use_them_and_64_bytes_allow_it) {
  const std::array blocks{Source{bytes(640, 64), {0}}, Source{bytes(0, 640), {0}}, Source{bytes(704, 64), {0, 1}},
                          Source{bytes(768, 100), {0, 1}}, Source{bytes(868, 50), {0, 1}}};
  EXPECT_EQ(Layout(blocks).segments()[0].runs.size(), 2U);
  const Layout layout(blocks, Layout::Form::file, true);
  ASSERT_EQ(layout.segments().size(), 2U);
  ASSERT_EQ(layout.segments()[0].runs.size(), 1U);
  EXPECT_EQ(layout.segments()[0].runs[0].bytes.data(), at(0));
  EXPECT_EQ(layout.segments()[0].runs[0].bytes.size(), 704U);
  EXPECT_EQ(layout.segments()[0].runs[0].first_block, 0U);
  EXPECT_EQ(layout.places()[0].offset, 640U);
  EXPECT_EQ(layout.places()[1].offset, 0U);
  ASSERT_EQ(layout.segments()[1].runs.size(), 2U);
  EXPECT_EQ(layout.segments()[1].runs[0].bytes.size(), 164U);
  EXPECT_EQ(layout.places()[3].offset, 64U);
  EXPECT_EQ(layout.places()[4].offset, 192U);
}

TEST_F(Layouts, in_parts_each_large_run_is_a_segment_and_the_small_ones_of_the_same_roots_are_another) {
  const std::array blocks{Source{bytes(0, 10), {0}}, Source{bytes(100, 65'537), {0}},
                          Source{bytes(70'000, 65'536), {0}}, Source{bytes(200'000, 100'000), {0}},
                          Source{bytes(400'000, 65), {1}}};
  const Layout layout(blocks, Layout::Form::parts);
  ASSERT_EQ(layout.segments().size(), 4U);
  const auto segment = [&](std::size_t number) { return layout.places()[number].segment.value_or(99); };
  EXPECT_EQ(segment(0), segment(2));
  for (const std::size_t large : {1U, 3U}) {
    ASSERT_EQ(layout.segments()[segment(large)].runs.size(), 1U);
    EXPECT_EQ(layout.segments()[segment(large)].runs[0].bytes.data(), blocks.at(large).bytes.data());
    EXPECT_EQ(layout.segments()[segment(large)].nbytes, blocks.at(large).bytes.size());
    EXPECT_EQ(layout.places()[large].offset, 0U);
  }
  EXPECT_EQ(layout.places()[2].offset, 64U);
  EXPECT_EQ(layout.segments()[segment(0)].nbytes, 64U + 65'536U);
  EXPECT_NE(segment(4), segment(0));
  EXPECT_EQ(layout.segments()[segment(4)].nbytes, 65U);
}

TEST_F(Layouts, blocks_that_overlap_keep_their_distance_and_those_that_touch_do_not) {
  const Layout layout(std::array{Source{bytes(500, 100), {}}, Source{bytes(450, 51), {}}, Source{bytes(600, 10), {}},
                                 Source{bytes(520, 8), {}}, Source{bytes(500, 100), {}}});
  ASSERT_EQ(layout.segments().size(), 1U);
  const std::vector<Layout::Run>& runs = layout.segments()[0].runs;
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_EQ(runs[0].bytes.data(), at(450));
  EXPECT_EQ(runs[0].bytes.size(), 150U);
  EXPECT_EQ(runs[0].first_block, 0U);
  EXPECT_EQ(layout.places()[0].offset, 50U);
  EXPECT_EQ(layout.places()[1].offset, 0U);
  EXPECT_EQ(layout.places()[3].offset, 70U);
  EXPECT_EQ(layout.places()[4].offset, 50U);
  EXPECT_EQ(runs[1].first_block, 2U);
  EXPECT_EQ(layout.places()[2].offset, 192U);
}

TEST_F(Layouts, each_set_of_roots_has_a_segment_in_the_order_of_first_use) {
  const Layout layout(std::array{Source{bytes(0, 10), {1}}, Source{bytes(100, 10), {0, 1}}, Source{bytes(200, 10), {1}},
                                 Source{bytes(300, 10), {}}, Source{bytes(400, 10), {0}}});
  ASSERT_EQ(layout.segments().size(), 4U);
  EXPECT_EQ(layout.segments()[0].roots, std::vector<std::uint32_t>{1});
  EXPECT_EQ(layout.segments()[0].runs.size(), 2U);
  EXPECT_EQ(layout.segments()[1].roots, (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(layout.segments()[2].roots, std::vector<std::uint32_t>{});
  EXPECT_EQ(layout.segments()[3].roots, std::vector<std::uint32_t>{0});
  EXPECT_EQ(layout.places()[2].segment, 0U);
  EXPECT_EQ(layout.places()[4].segment, 3U);
}

TEST_F(Layouts, overlapping_blocks_of_several_roots_are_used_by_all_of_them) {
  const Layout layout(
      std::array{Source{bytes(0, 10), {2}}, Source{bytes(5, 10), {0, 1}}, Source{bytes(14, 10), {1, 3}}});
  ASSERT_EQ(layout.segments().size(), 1U);
  EXPECT_EQ(layout.segments()[0].roots, (std::vector<std::uint32_t>{0, 1, 2, 3}));
}

TEST_F(Layouts, any_blocks_keep_their_bytes_apart_unless_they_overlap) {
  // The same blocks each time. NOLINTNEXTLINE(bugprone-random-generator-seed)
  std::mt19937 random(12);
  const auto up_to = [&](std::size_t most) { return std::uniform_int_distribution<std::size_t>(0, most)(random); };
  for (int round = 0; round < 200; ++round) {
    std::vector<Source> blocks;
    for (std::size_t count = up_to(12); count > 0; --count) {
      const std::size_t offset = up_to(700'000);
      std::set<std::uint32_t> roots;
      for (std::size_t users = up_to(2); users > 0; --users) {
        roots.insert(static_cast<std::uint32_t>(up_to(2)));
      }
      blocks.push_back({bytes(offset, up_to(up_to(1) == 0 ? 300 : 300'000)), {roots.begin(), roots.end()}});
    }
    const Layout::Form form = up_to(1) == 0 ? Layout::Form::file : Layout::Form::parts;
    const Layout layout(blocks, form, up_to(1) == 0);
    std::set<std::vector<std::uint32_t>> sets;
    for (const Layout::Segment& segment : layout.segments()) {
      const bool is_one_large_run = segment.runs.size() == 1 && segment.runs[0].bytes.size() > format::kLargeRun;
      if (form == Layout::Form::file || !is_one_large_run) {
        EXPECT_TRUE(sets.insert(segment.roots).second);
      }
      std::uint64_t end = 0;
      for (const Layout::Run& run : segment.runs) {
        EXPECT_GE(run.offset, end);
        EXPECT_EQ(run.offset % (run.bytes.size() > format::kLargeRun ? kPage : format::kAlignment), 0U);
        end = run.offset + run.bytes.size();
      }
      EXPECT_EQ(segment.nbytes, form == Layout::Form::file ? aligned(end, kPage) : end);
    }
    for (std::size_t number = 0; number < blocks.size(); ++number) {
      const Layout::Place& place = layout.places()[number];
      const std::span<const std::byte> block = blocks[number].bytes;
      ASSERT_EQ(place.segment.has_value(), !block.empty());
      if (block.empty()) {
        continue;
      }
      // The byte of the block that lies at its place in the segment is its own.
      bool found = false;
      for (const Layout::Run& run : layout.segments()[*place.segment].runs) {
        if (run.offset <= place.offset && place.offset + block.size() <= run.offset + run.bytes.size()) {
          found = run.bytes.data() + (place.offset - run.offset) == block.data();
        }
      }
      EXPECT_TRUE(found);
      for (const std::uint32_t root : blocks[number].roots) {
        const std::vector<std::uint32_t>& roots = layout.segments()[*place.segment].roots;
        EXPECT_EQ(std::count(roots.begin(), roots.end(), root), 1);
      }
    }
  }
}

}  // namespace
}  // namespace zerocopy
