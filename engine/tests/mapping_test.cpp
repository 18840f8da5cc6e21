#include "window/mapping.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <optional>
#include <string>
#include <vector>

#include "attempt.h"
#include "forwarding_system.h"
#include "shared_file.h"
#include "system/page_range.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using testing::ForwardingSystem;
using testing::Mapped;
using testing::OldKernel;
using testing::page_size;
using testing::refusal;
using testing::SharedFile;

TEST(ParseMaps, a_line_of_a_shared_unlinked_file_is_understood) {
  EXPECT_EQ(parse_maps("7fdab4140000-7fdac0000000 rw-s 00003000 00:1b 4711                       "
                       "/dev/shm/plasmaCXo6eJ (deleted)\n"),
            (std::vector<Mapping>{{0x7fdab4140000, 0x7fdac0000000, 0x3000, {0, 0x1b, 4711}, true, true}}));
}

TEST(ParseMaps, private_anonymous_and_unreadable_mappings_are_told_apart) {
  EXPECT_EQ(parse_maps("1000-2000 r-xp 00000000 fd:01 12 /usr/bin/python3\n"
                       "2000-3000 rw-p 00000000 00:00 0 \n"
                       "3000-4000 ---p 00000000 00:00 0\n"),
            (std::vector<Mapping>{{0x1000, 0x2000, 0, {0xfd, 1, 12}, true, false},
                                  {0x2000, 0x3000, 0, {0, 0, 0}, true, false},
                                  {0x3000, 0x4000, 0, {0, 0, 0}, false, false}}));
}

TEST(ParseMaps, a_file_may_have_any_name) {
  using namespace std::string_literals;
  for (const std::string& name : {"/a b  c"s, "/1000-2000 rw-s 00000000 00:1b 1"s, "/line\\012break"s, "\xff\xfe"s,
                                  "[heap]"s, "anon_inode:[x]"s, "/a\0b"s}) {
    const std::vector<Mapping> mappings = parse_maps("1000-2000 rw-s 00000000 00:1b 7 " + name + "\n");
    ASSERT_EQ(mappings.size(), 1U) << name;
    EXPECT_EQ(mappings[0].file.inode, 7U) << name;
  }
}

TEST(ParseMaps, the_largest_numbers_are_understood) {
  const std::vector<Mapping> mappings =
      parse_maps("0-ffffffffffffffff r--s ffffffffffffffff ffffffff:ffffffff 18446744073709551615\n");
  ASSERT_EQ(mappings.size(), 1U);
  EXPECT_EQ(mappings[0].end, UINTPTR_MAX);
  EXPECT_EQ(mappings[0].file.inode, UINT64_MAX);
}

TEST(ParseMaps, no_line_is_no_mapping) { EXPECT_TRUE(parse_maps("").empty()); }

TEST(ParseMaps, a_malformed_line_is_refused_and_shown) {
  for (const char* const text :
       {"\n", " \n", "garbage\n", "1000\n", "1000-\n", "1000-2000\n", "1000-2000 rw-s\n", "1000-2000 rw-s 00000000\n",
        "1000-2000 rw-s 00000000 00:1b\n", "1000-2000 rw-s 00000000 00:1b \n",
        // Not one mapping, or not in order.
        "2000-1000 rw-s 00000000 00:1b 1\n", "1000-1000 rw-s 00000000 00:1b 1\n",
        "1000-3000 rw-s 0 00:1b 1\n2000-4000 rw-s 0 00:1b 1\n", "3000-4000 rw-s 0 00:1b 1\n1000-2000 rw-s 0 00:1b 1\n",
        // Numbers that are none, or too large.
        "10000000000000000-20000000000000000 rw-s 0 00:1b 1\n", "0x1000-2000 rw-s 0 00:1b 1\n",
        "-1000-2000 rw-s 0 00:1b 1\n", "+1000-2000 rw-s 0 00:1b 1\n", "1000-2000 rw-s 0 100000000:1b 1\n",
        "1000-2000 rw-s 0 00:1b 18446744073709551616\n", "1000-2000 rw-s 0 00:1b -1\n", "1000-2000 rw-s 0 00:1b 1f\n",
        "1000-2000 rw-s 0g 00:1b 1\n",
        // Permissions that don't exist.
        "1000-2000 rws 0 00:1b 1\n", "1000-2000 rw-x 0 00:1b 1\n", "1000-2000 wr-s 0 00:1b 1\n",
        "1000-2000 rw-sp 0 00:1b 1\n",
        // Cut short: the inode may have had more digits.
        "1000-2000 rw-s 00000000 00:1b 47", "1000-2000 rw-s 0 00:1b 1\n1000",
        // Other separators.
        "1000-2000  rw-s 0 00:1b 1\n", "1000-2000\trw-s 0 00:1b 1\n", "1000-2000 rw-s 0 00.1b 1\n",
        "1000-2000 rw-s 0 00:1b 1\r\n"}) {
    SCOPED_TRACE(text);
    const Error error = refusal([&] { parse_maps(text); });
    EXPECT_EQ(error.code(), Error::Code::malformed_maps);
    EXPECT_NE(std::string(error.what()).find("/proc/self/maps has a line"), std::string::npos) << error.what();
  }
}

TEST(ParseMaps, the_maps_of_this_process_are_understood) {
  const SharedFile file(3);
  const Mapped mapped = file.map(PROT_READ);
  const std::vector<Mapping> mappings = parse_maps(System::real().read_file("/proc/self/maps").value);
  const auto found = std::ranges::find(mappings, address_of(mapped.bytes().data()), &Mapping::begin);
  ASSERT_NE(found, mappings.end());
  EXPECT_EQ(found->end - found->begin, file.length());
  EXPECT_EQ(found->file, file.id());
  EXPECT_TRUE(found->shared);
  EXPECT_TRUE(found->readable);
}

TEST(Mappings, a_question_to_the_kernel_and_the_text_have_the_same_answer_for_every_mapping) {
  const SharedFile file(3);
  const Mapped mapped = file.map();
  ASSERT_EQ(::mprotect(mapped.bytes().data() + page_size(), page_size(), PROT_NONE), 0);
  OldKernel old_kernel;
  Mappings asked(System::real());
  Mappings read(old_kernel);
  std::size_t compared = 0;
  for (std::size_t page = 0; page < 3; ++page) {
    const std::uintptr_t address = address_of(mapped.bytes().data()) + page * page_size() + 17;
    const std::optional<Mapping> mapping = asked.find(address);
    ASSERT_TRUE(mapping);
    EXPECT_EQ(mapping, read.find(address));
    EXPECT_EQ(mapping->readable, page != 1);
    EXPECT_EQ(mapping->offset, page * page_size());
    ++compared;
  }
  EXPECT_EQ(compared, 3U);
  const int local = 0;
  const auto stack = std::bit_cast<std::uintptr_t>(&local);
  EXPECT_FALSE(asked.find(stack)->shared);
  EXPECT_FALSE(read.find(stack)->shared);
}

TEST(Mappings, nothing_is_found_where_nothing_is_mapped) {
  OldKernel old_kernel;
  for (const std::uintptr_t address : {std::uintptr_t{0}, page_size()}) {
    EXPECT_EQ(Mappings(System::real()).find(address), std::nullopt);
    EXPECT_EQ(Mappings(old_kernel).find(address), std::nullopt);
  }
}

TEST(Mappings, an_answer_serves_all_addresses_of_its_mapping) {
  class Counting : public ForwardingSystem {
   public:
    Result<Mapping> query_mapping(int maps, std::uintptr_t address) override {
      ++questions;
      return ForwardingSystem::query_mapping(maps, address);
    }
    Result<std::string> read_file(const std::string& path) override {
      ++questions;
      return ForwardingSystem::read_file(path);
    }
    int questions = 0;
  } counting;
  const SharedFile file(8);
  const Mapped mapped = file.map();
  Mappings mappings(counting);
  for (std::size_t page = 0; page < 8; ++page) {
    EXPECT_TRUE(mappings.find(address_of(mapped.bytes().data()) + page * page_size()));
  }
  EXPECT_LE(counting.questions, 2);  // One to an old kernel: the question that it does not know, and the text.
}

TEST(Mappings, maps_that_cannot_be_read_are_an_error_with_its_errno) {
  class Locked : public ForwardingSystem {
   public:
    Result<FileDescriptor> open(const std::string& /*path*/) override { return {{}, EACCES}; }
    Result<std::string> read_file(const std::string& /*path*/) override { return {{}, EACCES}; }
  } locked;
  const Error error = refusal([&] { Mappings(locked).find(1); });
  EXPECT_EQ(error.code(), Error::Code::system_call);
  EXPECT_EQ(error.system_error(), EACCES);
}

}  // namespace
}  // namespace zerocopy
