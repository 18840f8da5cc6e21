#include "watch/pagemap.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "attempt.h"
#include "forwarding_system.h"
#include "process_state.h"
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

System& real = System::real();

// A private mapping of a file of some pages, and both ways of counting its own bytes, which must agree.
class OwnBytes : public ::testing::Test {
 protected:
  static constexpr std::size_t pages = 600;  // More than one scan has room for, if every other one is own.

  [[nodiscard]] std::uint64_t counted() const { return counted(mapped_.bytes()); }

  [[nodiscard]] static std::uint64_t counted(std::span<const std::byte> range) {
    OldKernel old_kernel;
    const std::uint64_t scanned = Pagemap(real).own_bytes(range);
    EXPECT_EQ(Pagemap(old_kernel).own_bytes(range), scanned);
    return scanned;
  }

  void read_all() const {
    for (std::size_t page = 0; page < pages; ++page) {
      const volatile std::byte* byte = &mapped_.bytes()[page * page_size()];
      static_cast<void>(*byte);
    }
  }

  void write(std::size_t page) const { mapped_.bytes()[page * page_size() + 1] = std::byte{1}; }

  const SharedFile file_{pages, SharedFile::Content::zeros};
  const Mapped mapped_{real.map_private(file_.descriptor(), 0, file_.length(), nullptr).value, file_.length()};
};

TEST_F(OwnBytes, pages_never_touched_are_not_own) { EXPECT_EQ(counted(), 0U); }

TEST_F(OwnBytes, pages_only_read_are_not_own) {
  read_all();
  EXPECT_EQ(counted(), 0U);
}

TEST_F(OwnBytes, prefaulted_pages_are_not_own) {
  real.populate(mapped_.bytes());
  EXPECT_EQ(counted(), 0U);
}

TEST_F(OwnBytes, each_written_page_is_own) {
  write(0);
  EXPECT_EQ(counted(), page_size());
  write(0);
  EXPECT_EQ(counted(), page_size());
  write(pages - 1);
  EXPECT_EQ(counted(), 2 * page_size());
}

TEST_F(OwnBytes, every_other_page_of_many_is_counted) {
  read_all();
  for (std::size_t page = 0; page < pages; page += 2) {
    write(page);
  }
  EXPECT_EQ(counted(), pages / 2 * page_size());
}

TEST_F(OwnBytes, discarded_pages_are_not_own_whether_they_are_back_or_not) {
  real.populate(mapped_.bytes());
  for (std::size_t page = 0; page < pages; ++page) {
    write(page);
  }
  EXPECT_EQ(counted(), pages * page_size());
  real.discard(mapped_.bytes());
  EXPECT_EQ(counted(), 0U);
  real.populate(mapped_.bytes());
  EXPECT_EQ(counted(), 0U);
  write(3);
  EXPECT_EQ(counted(), page_size());
}

TEST_F(OwnBytes, only_pages_of_the_range_count_and_those_as_a_whole) {
  write(10);
  write(11);
  write(13);
  const std::size_t page = page_size();
  EXPECT_EQ(counted(mapped_.bytes().subspan(11 * page + 7, 1)), page);
  EXPECT_EQ(counted(mapped_.bytes().subspan(10 * page + page - 1, 2)), 2 * page);
  EXPECT_EQ(counted(mapped_.bytes().subspan(12 * page, page)), 0U);
  EXPECT_EQ(counted(mapped_.bytes().subspan(11 * page, 0)), 0U);
}

TEST_F(OwnBytes, anonymous_memory_is_own_once_written) {
  const Mapped anonymous = testing::map_anonymous(4 * page_size());
  anonymous.bytes()[page_size()] = std::byte{1};
  EXPECT_EQ(counted(anonymous.bytes()), page_size());
}

TEST_F(OwnBytes, a_scan_that_stops_early_is_gone_on_with) {
  class Impatient : public ForwardingSystem {
   public:
    Result<PageScan> scan_own_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
      return ForwardingSystem::scan_own_pages(pagemap, begin, std::min(end, begin + 7 * testing::page_size()));
    }
  } impatient;
  for (std::size_t page = 0; page < pages; page += 3) {
    write(page);
  }
  EXPECT_EQ(Pagemap(impatient).own_bytes(mapped_.bytes()), pages / 3 * page_size());
}

TEST_F(OwnBytes, short_reads_are_gone_on_with) {
  class Short : public OldKernel {
   public:
    Result<std::size_t> read_at(int descriptor, std::span<std::byte> into, std::uint64_t offset) override {
      return OldKernel::read_at(descriptor, into.first(std::min<std::size_t>(into.size(), 24)), offset);
    }
  } short_reads;
  write(4);
  write(5);
  write(599);
  EXPECT_EQ(Pagemap(short_reads).own_bytes(mapped_.bytes()), 3 * page_size());
}

TEST_F(OwnBytes, a_pagemap_that_cannot_be_opened_is_an_error_with_its_errno) {
  class Locked : public ForwardingSystem {
   public:
    Result<FileDescriptor> open(const std::string& /*path*/) override { return {{}, EPERM}; }
  } locked;
  for (const Error& error : {refusal([&] { const Pagemap pagemap(locked); }),
                             refusal([&] { static_cast<void>(page_use(1, {}, locked)); })}) {
    EXPECT_EQ(error.code(), Error::Code::system_call);
    EXPECT_EQ(error.system_error(), EPERM);
  }
}

TEST_F(OwnBytes, a_pagemap_that_ends_early_is_an_error) {
  class Empty : public OldKernel {
   public:
    Result<std::size_t> read_at(int /*descriptor*/, std::span<std::byte> /*into*/, std::uint64_t /*offset*/) override {
      return {0};
    }
  } empty;
  Pagemap pagemap(empty);
  EXPECT_THROW(static_cast<void>(pagemap.own_bytes(mapped_.bytes())), Error);
}

// What a process has of the pages of such a mapping.
class PageUseTest : public OwnBytes {
 protected:
  [[nodiscard]] PageUse use(std::size_t first, std::size_t count) const {
    const std::span<const std::byte> range = mapped_.bytes().subspan(first * page_size(), count * page_size());
    return Pagemap(real).use(address_of(range.data()), address_of(range.data()) + range.size());
  }
};

TEST_F(PageUseTest, pages_never_touched_cost_nothing) {
  const PageUse none = use(0, pages);
  EXPECT_EQ(none.resident_bytes, 0U);
  EXPECT_EQ(none.own_bytes, 0U);
  EXPECT_EQ(none.page_table_bytes, 0U);
}

TEST_F(PageUseTest, pages_that_were_read_are_resident_and_those_that_were_written_are_own_as_well) {
  read_all();
  write(7);
  write(300);
  EXPECT_EQ(use(0, pages).resident_bytes, pages * page_size());
  EXPECT_EQ(use(0, pages).own_bytes, 2 * page_size());
  EXPECT_EQ(use(0, 8).own_bytes, page_size());
  EXPECT_EQ(use(8, 100).own_bytes, 0U);
}

TEST_F(PageUseTest, each_table_of_which_a_page_is_resident_is_counted_once) {
  const std::size_t in_table = page_size() / sizeof(std::uint64_t);
  const std::size_t first = address_of(mapped_.bytes().data()) / page_size();
  const std::size_t until_next = in_table - first % in_table;  // Pages of the mapping before those of the next table.
  write(0);
  write(until_next > 1 ? 1 : 0);
  EXPECT_EQ(use(0, pages).page_table_bytes, page_size());
  if (until_next < pages) {
    write(until_next);
    EXPECT_EQ(use(0, pages).page_table_bytes, 2 * page_size());
  }
}

TEST_F(PageUseTest, page_tables_are_what_the_kernel_says_within_a_few_percent) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "what the sanitizer notes of the pages has page tables as well";
#endif
  const SharedFile large(64 << 10, SharedFile::Content::zeros);  // 256 MB, where a page has 4 KiB.
  const Mapped mapped(real.map_private(large.descriptor(), 0, large.length(), nullptr).value, large.length());
  const std::uint64_t before = testing::page_table_bytes();
  real.touch(mapped.bytes());
  const auto grown = static_cast<double>(testing::page_table_bytes() - before);
  const std::uintptr_t begin = address_of(mapped.bytes().data());
  EXPECT_NEAR(static_cast<double>(Pagemap(real).use(begin, begin + large.length()).page_table_bytes), grown,
              0.05 * grown);
}

TEST_F(PageUseTest, pages_that_are_watched_and_not_written_are_not_own) {
  const FileDescriptor watch = std::move(real.open_write_watch().value);
  if (watch.number() == -1 || real.watch_writes(watch.number(), mapped_.bytes()) != 0) {
    GTEST_SKIP() << "this kernel cannot watch";
  }
  EXPECT_EQ(use(0, pages).own_bytes, 0U);
  read_all();
  EXPECT_EQ(use(0, pages).own_bytes, 0U);
  write(3);
  EXPECT_EQ(use(0, pages).own_bytes, page_size());
  EXPECT_EQ(use(0, pages).resident_bytes, pages * page_size());
}

TEST_F(PageUseTest, another_process_is_asked_about_its_own_pages) {
  read_all();
  std::array<int, 2> told{};
  std::array<int, 2> ended{};
  ASSERT_EQ(::pipe2(told.data(), O_CLOEXEC) | ::pipe2(ended.data(), O_CLOEXEC), 0);
  const int child = ::fork();
  if (child == 0) {
    write(1);
    write(2);
    char byte = 0;
    static_cast<void>(::write(told[1], &byte, 1));
    ::close(ended[1]);
    static_cast<void>(::read(ended[0], &byte, 1));
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(told[0], &byte, 1), 1);
  const std::pair<std::uintptr_t, std::uintptr_t> range{address_of(mapped_.bytes().data()),
                                                        address_of(mapped_.bytes().data()) + mapped_.bytes().size()};
  EXPECT_EQ(page_use(child, {&range, 1}).own_bytes, 2 * page_size());
  EXPECT_EQ(page_use(::getpid(), {&range, 1}).own_bytes, 0U);
  ::close(ended[1]);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(refusal([&] { static_cast<void>(page_use(child, {&range, 1})); }).system_error(), ENOENT);
  for (const int descriptor : {told[0], told[1], ended[0]}) {
    ::close(descriptor);
  }
}

}  // namespace
}  // namespace zerocopy
