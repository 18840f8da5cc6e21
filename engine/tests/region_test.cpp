#include "window/region.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "attempt.h"
#include "forwarding_system.h"
#include "shared_file.h"
#include "system/page_range.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using testing::ForwardingSystem;
using testing::has_pattern;
using testing::page_size;
using testing::refusal;
using testing::SharedFile;

System& real = System::real();

bool is_mapped(const std::byte* address) { return Mappings(real).find(address_of(address)).has_value(); }

FilePart part_of(const SharedFile& file, std::size_t first_page, std::size_t pages, System& system = real) {
  return {BackingFile::find(file.id(), system), first_page * page_size(), pages * page_size()};
}

TEST(Region, a_region_shows_a_part_of_a_file_and_keeps_writes_to_itself) {
  const SharedFile file(4);
  const Region region({part_of(file, 1, 2)}, real);
  EXPECT_EQ(region.bytes().size(), 2 * page_size());
  EXPECT_TRUE(has_pattern(region.bytes(), page_size()));
  region.bytes()[0] = ~region.bytes()[0];
  EXPECT_TRUE(has_pattern(file.map().bytes(), 0));
}

TEST(Region, parts_of_several_files_lie_one_behind_the_other) {
  const SharedFile first(3);
  const SharedFile second(2);
  const Region region({part_of(first, 2, 1), part_of(second, 0, 2), part_of(first, 0, 1)}, real);
  ASSERT_EQ(region.bytes().size(), 4 * page_size());
  EXPECT_TRUE(has_pattern(region.bytes().first(page_size()), 2 * page_size()));
  EXPECT_TRUE(has_pattern(region.bytes().subspan(page_size(), 2 * page_size()), 0));
  EXPECT_TRUE(has_pattern(region.bytes().last(page_size()), 0));
}

TEST(Region, a_region_is_unmapped_once_whoever_owns_it_last) {
  const SharedFile file(2);
  const std::byte* address = nullptr;
  {
    Region first({part_of(file, 0, 2)}, real);
    address = first.bytes().data();
    const Region second(std::move(first));
    EXPECT_TRUE(
        first.bytes().empty());  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move): it is what is tested.
    EXPECT_EQ(second.bytes().data(), address);
    EXPECT_TRUE(is_mapped(address));
  }
  EXPECT_FALSE(is_mapped(address));
}

TEST(Region, a_mapping_that_is_refused_is_an_error_with_its_errno) {
  class Full : public ForwardingSystem {
   public:
    Result<std::byte*> map_private(int /*descriptor*/, std::uint64_t /*offset*/, std::size_t /*length*/,
                                   std::byte* /*address*/) override {
      return {nullptr, ENOMEM};
    }
  } full;
  const SharedFile file(1);
  const Error error = refusal([&] { const Region region({part_of(file, 0, 1, full)}, full); });
  EXPECT_EQ(error.code(), Error::Code::system_call);
  EXPECT_EQ(error.system_error(), ENOMEM);
}

TEST(Region, nothing_stays_mapped_when_a_later_part_is_refused) {
  class SecondFails : public ForwardingSystem {
   public:
    Result<std::byte*> reserve(std::size_t length) override {
      const Result<std::byte*> result = ForwardingSystem::reserve(length);
      reserved = result.value;
      return result;
    }
    Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::size_t length,
                                   std::byte* address) override {
      return address == reserved ? ForwardingSystem::map_private(descriptor, offset, length, address)
                                 : Result<std::byte*>{nullptr, ENOMEM};
    }
    std::byte* reserved = nullptr;
  } second_fails;
  const SharedFile first(1);
  const SharedFile second(1);
  EXPECT_THROW(Region({part_of(first, 0, 1, second_fails), part_of(second, 0, 1, second_fails)}, second_fails), Error);
  ASSERT_NE(second_fails.reserved, nullptr);
  EXPECT_FALSE(is_mapped(second_fails.reserved));
}

}  // namespace
}  // namespace zerocopy
