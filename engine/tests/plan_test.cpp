#include "window/plan.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "attempt.h"
#include "forwarding_system.h"
#include "shared_file.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using testing::ForwardingSystem;
using testing::Mapped;
using testing::page_size;
using testing::refusal;
using testing::SharedFile;

System& real = System::real();

using Segments = std::vector<std::span<const std::byte>>;

const std::byte* at_address(std::uintptr_t address) { return std::bit_cast<const std::byte*>(address); }

Error::Code refusal_of(const Segments& segments) {
  return refusal([&] { make_plan(segments, real); }).code();
}

TEST(Plan, a_segment_within_a_page_takes_the_whole_page) {
  const SharedFile file(3);
  const Mapped mapped = file.map();
  const Plan plan = make_plan(Segments{mapped.bytes().subspan(page_size() + 10, 20)}, real);
  ASSERT_EQ(plan.regions.size(), 1U);
  EXPECT_EQ(plan.regions[0].source.begin, address_of(mapped.bytes().data()) + page_size());
  EXPECT_EQ(plan.regions[0].source.end, plan.regions[0].source.begin + page_size());
  ASSERT_EQ(plan.regions[0].parts.size(), 1U);
  EXPECT_EQ(plan.regions[0].parts[0].offset, page_size());
  EXPECT_EQ(plan.regions[0].parts[0].length, page_size());
  EXPECT_EQ(plan.regions[0].parts[0].file->id(), file.id());
  EXPECT_EQ(plan.regions[0].segments, std::vector<std::size_t>{0});
  EXPECT_TRUE(plan.copied.empty());
  EXPECT_EQ(plan.reason, "");
}

TEST(Plan, two_hundred_neighbouring_segments_are_one_mapping_whatever_their_order) {
  const SharedFile file(100);
  const Mapped mapped = file.map();
  Segments segments;
  for (std::size_t nth = 0; nth < 200; ++nth) {
    segments.emplace_back(mapped.bytes().subspan(nth * 77 % 200 * (page_size() / 2), page_size() / 2 - 64));
  }
  const Plan plan = make_plan(segments, real);
  ASSERT_EQ(plan.regions.size(), 1U);
  EXPECT_EQ(plan.regions[0].parts.size(), 1U);
  EXPECT_EQ(plan.regions[0].parts[0].length, file.length());
  EXPECT_EQ(plan.regions[0].segments.size(), 200U);
}

TEST(Plan, segments_with_a_page_between_them_are_mapped_apart) {
  const SharedFile file(5);
  const Mapped mapped = file.map();
  const Plan plan =
      make_plan(Segments{mapped.bytes().subspan(3 * page_size(), 1), mapped.bytes().subspan(page_size(), 1)}, real);
  ASSERT_EQ(plan.regions.size(), 2U);
  EXPECT_EQ(plan.regions[0].segments, std::vector<std::size_t>{1});
  EXPECT_EQ(plan.regions[1].segments, std::vector<std::size_t>{0});
}

TEST(Plan, segments_within_each_other_are_mapped_once) {
  const SharedFile file(6);
  const Mapped mapped = file.map();
  const std::span<const std::byte> all = mapped.bytes();
  const Plan plan = make_plan(Segments{all, all.subspan(page_size(), 10), all.subspan(10), all}, real);
  ASSERT_EQ(plan.regions.size(), 1U);
  EXPECT_EQ(plan.regions[0].parts[0].length, file.length());
  EXPECT_EQ(plan.regions[0].segments.size(), 4U);
}

TEST(Plan, mappings_that_continue_each_other_are_one_part) {
  const SharedFile file(4);
  const Mapped mapped = file.map();
  ASSERT_EQ(::mprotect(mapped.bytes().data() + page_size(), page_size(), PROT_READ), 0);  // Makes three mappings of it.
  const Plan plan = make_plan(Segments{mapped.bytes()}, real);
  ASSERT_EQ(plan.regions.size(), 1U);
  EXPECT_EQ(plan.regions[0].parts.size(), 1U);
}

TEST(Plan, a_segment_across_two_files_has_a_part_of_each) {
  const SharedFile first(2);
  const SharedFile second(2);
  const Mapped place = testing::map_anonymous(3 * page_size());
  first.map_over(place.bytes().data(), page_size(), page_size());
  second.map_over(place.bytes().data() + page_size(), 2 * page_size(), 0);
  const Plan plan = make_plan(Segments{place.bytes().subspan(5, 2 * page_size())}, real);
  ASSERT_EQ(plan.regions.size(), 1U);
  ASSERT_EQ(plan.regions[0].parts.size(), 2U);
  EXPECT_EQ(plan.regions[0].parts[0].offset, page_size());
  EXPECT_EQ(plan.regions[0].parts[1].file->id(), second.id());
  EXPECT_EQ(plan.regions[0].parts[1].length, 2 * page_size());
}

TEST(Plan, a_segment_that_runs_on_into_private_memory_is_copied_and_its_neighbour_is_not) {
  const SharedFile file(1);
  const Mapped place = testing::map_anonymous(2 * page_size());
  file.map_over(place.bytes().data(), page_size(), 0);
  const Plan plan = make_plan(Segments{place.bytes(), place.bytes().first(8)}, real);
  EXPECT_EQ(plan.copied, std::vector<std::size_t>{0});
  ASSERT_EQ(plan.regions.size(), 1U);
  EXPECT_EQ(plan.regions[0].segments, std::vector<std::size_t>{1});
  EXPECT_EQ(plan.regions[0].source.end - plan.regions[0].source.begin, page_size());
  EXPECT_NE(plan.reason.find("lie in private memory"), std::string::npos) << plan.reason;
}

TEST(Plan, heap_memory_is_copied_and_the_reason_says_so) {
  const std::vector<std::byte> heap(100);
  const Plan plan = make_plan(Segments{heap}, real);
  EXPECT_EQ(plan.copied, std::vector<std::size_t>{0});
  EXPECT_TRUE(plan.regions.empty());
  EXPECT_NE(plan.reason.find("lie in private memory, not in a shared file"), std::string::npos) << plan.reason;
}

TEST(Plan, a_private_mapping_of_a_file_is_copied) {
  const SharedFile file(1);
  const Mapped mapped{real.map_private(file.descriptor(), 0, file.length(), nullptr).value, file.length()};
  EXPECT_EQ(make_plan(Segments{mapped.bytes()}, real).copied.size(), 1U);
}

TEST(Plan, shared_memory_without_a_file_that_can_be_found_is_copied) {
  const Mapped mapped = testing::map_anonymous(page_size(), PROT_READ | PROT_WRITE, MAP_SHARED);
  const Plan plan = make_plan(Segments{mapped.bytes()}, real);
  EXPECT_EQ(plan.copied.size(), 1U);
  EXPECT_NE(plan.reason.find("this process finds no other that holds file"), std::string::npos) << plan.reason;
}

TEST(Plan, a_file_is_searched_for_once_whether_it_is_found_or_not) {
  class Counting : public ForwardingSystem {
   public:
    Result<FileDescriptor> open_held_file(int process, const FileId& file) override {
      searches += process == process_id() ? 1 : 0;
      return ForwardingSystem::open_held_file(process, file);
    }
    int searches = 0;
  } counting;
  const Mapped mapped = testing::map_anonymous(page_size(), PROT_READ | PROT_WRITE, MAP_SHARED);
  make_plan(Segments(50, mapped.bytes()), counting);
  EXPECT_EQ(counting.searches, 1);
}

TEST(Plan, empty_segments_are_neither_mapped_nor_copied) {
  const SharedFile file(1);
  const Mapped mapped = file.map();
  const Plan plan = make_plan(Segments{{}, mapped.bytes().first(0)}, real);
  EXPECT_TRUE(plan.regions.empty());
  EXPECT_TRUE(plan.copied.empty());
}

TEST(Plan, impossible_segments_are_refused) {
  const SharedFile file(1);
  const Mapped mapped = file.map();
  EXPECT_EQ(refusal_of({{at_address(0), 1}}), Error::Code::bad_segment);
  EXPECT_EQ(refusal_of({{at_address(UINTPTR_MAX), 1}}), Error::Code::bad_segment);
  EXPECT_EQ(refusal_of({{mapped.bytes().data(), SIZE_MAX}}), Error::Code::bad_segment);
}

TEST(Plan, segments_that_cannot_be_read_are_refused) {
  EXPECT_EQ(refusal_of({{at_address(page_size()), 1}}), Error::Code::unmapped_segment);
  EXPECT_EQ(refusal_of({testing::map_anonymous(page_size(), PROT_NONE).bytes()}), Error::Code::unmapped_segment);
}

TEST(Plan, a_segment_beyond_the_end_of_its_file_is_refused) {
  const SharedFile file(4);
  const Mapped mapped = file.map();
  ASSERT_EQ(::ftruncate(file.descriptor(), static_cast<off_t>(2 * page_size() + 1)), 0);
  EXPECT_EQ(refusal_of({mapped.bytes()}), Error::Code::unmapped_segment);
  EXPECT_EQ(make_plan(Segments{mapped.bytes().first(3 * page_size())}, real).regions.size(), 1U);
}

TEST(Plan, maps_that_are_not_understood_have_everything_copied) {
  class Garbled : public testing::OldKernel {
   public:
    Result<std::string> read_file(const std::string& /*path*/) override { return {"nonsense\n"}; }
  } garbled;
  const SharedFile file(1);
  const Mapped mapped = file.map();
  const Plan plan = make_plan(Segments{mapped.bytes()}, garbled);
  EXPECT_EQ(plan.copied.size(), 1U);
  EXPECT_NE(plan.reason.find("nonsense"), std::string::npos) << plan.reason;
}

}  // namespace
}  // namespace zerocopy
