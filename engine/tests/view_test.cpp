#include "zerocopy/view.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "attempt.h"
#include "child_process.h"
#include "forwarding_system.h"
#include "process_state.h"
#include "shared_file.h"
#include "system/page_range.h"
#include "window/mapping.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using testing::Bystander;
using testing::ForwardingSystem;
using testing::has_pattern;
using testing::Mapped;
using testing::OldKernel;
using testing::page_size;
using testing::problem_in_child;
using testing::refusal;
using testing::SharedFile;

using Segments = std::vector<std::span<const std::byte>>;

static_assert(!std::is_copy_constructible_v<View> && std::is_nothrow_move_constructible_v<View> &&
              std::is_nothrow_move_assignable_v<View>);

View view_of(const Segments& segments, System& system = System::real()) { return {segments, nullptr, system}; }

View view_of(const Mapped& mapped, System& system = System::real()) {
  return view_of(Segments{mapped.bytes()}, system);
}

void invert(std::span<std::byte> bytes) {
  std::ranges::transform(bytes, bytes.begin(), [](std::byte byte) { return ~byte; });
}

std::size_t offset_in_page(const std::byte* address) { return address_of(address) % page_size(); }

// A file of ten pages, shared, as this process's source.
class ViewTest : public ::testing::Test {
 protected:
  SharedFile file_{10};
  Mapped source_ = file_.map();
};

TEST_F(ViewTest, a_view_shows_the_shared_bytes_and_copies_none) {
  const View view = view_of(source_);
  EXPECT_EQ(view.size(), 1U);
  EXPECT_EQ(view.nbytes(), file_.length());
  EXPECT_EQ(view.copied_bytes(), 0U);
  EXPECT_EQ(view.private_copy_reason(), "");
  EXPECT_NE(view.segment(0).data(), source_.bytes().data());
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
  EXPECT_EQ(view.diverged_bytes(), 0U);
}

TEST_F(ViewTest, a_view_of_a_read_only_mapping_can_be_written_to) {
  const Mapped read_only = file_.map(PROT_READ);
  const View view = view_of(read_only);
  EXPECT_EQ(view.copied_bytes(), 0U);
  invert(view.segment(0));
  EXPECT_TRUE(has_pattern(read_only.bytes(), 0));
}

TEST_F(ViewTest, a_write_is_not_seen_in_the_source_nor_in_a_sibling_view) {
  const View written = view_of(source_);
  const View sibling = view_of(source_);
  invert(written.segment(0));
  EXPECT_TRUE(has_pattern(source_.bytes(), 0));
  EXPECT_TRUE(has_pattern(sibling.segment(0), 0));
  EXPECT_TRUE(has_pattern(view_of(source_).segment(0), 0));
  EXPECT_FALSE(has_pattern(written.segment(0), 0));
  EXPECT_EQ(written.diverged_bytes(), file_.length());
  EXPECT_EQ(sibling.diverged_bytes(), 0U);
}

TEST_F(ViewTest, a_view_of_one_process_does_not_see_what_another_process_writes_to_its_own) {
  const View view = view_of(source_);
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              const View childs = view_of(source_);
              if (childs.copied_bytes() != 0) {
                return childs.private_copy_reason();
              }
              invert(childs.segment(0));
              return has_pattern(source_.bytes(), 0) ? "" : "the write went through to the source";
            }),
            "");
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
}

TEST_F(ViewTest, a_page_that_nobody_wrote_is_the_shared_one) {
  const View view = view_of(source_);
  invert(view.segment(0).first(1));
  source_.bytes()[0] = std::byte{11};
  source_.bytes()[page_size()] = std::byte{12};
  EXPECT_EQ(view.segment(0)[0], ~testing::pattern_at(0));
  EXPECT_EQ(view.segment(0)[page_size()], std::byte{12});
}

TEST_F(ViewTest, a_view_stays_right_after_the_sources_owner_unmapped_it_and_closed_its_file) {
  View view = view_of(source_);
  source_.unmap();
  file_.close();
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
  invert(view.segment(0));
  EXPECT_EQ(view.diverged_bytes(), view.nbytes());
  view.reset();
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
}

TEST_F(ViewTest, segments_that_start_and_end_off_page_boundaries_are_right) {
  const std::size_t page = page_size();
  for (const auto& [begin, end] : std::vector<std::pair<std::size_t, std::size_t>>{{1, 2},
                                                                                   {0, page},
                                                                                   {page - 1, page + 1},
                                                                                   {64, 10 * page},
                                                                                   {0, 10 * page - 1},
                                                                                   {3 * page + 7, 5 * page + 9},
                                                                                   {2 * page, 2 * page + 1}}) {
    const View view = view_of(Segments{source_.bytes().subspan(begin, end - begin)});
    ASSERT_EQ(view.copied_bytes(), 0U) << view.private_copy_reason();
    EXPECT_EQ(view.segment(0).size(), end - begin);
    EXPECT_TRUE(has_pattern(view.segment(0), begin));
    EXPECT_EQ(offset_in_page(view.segment(0).data()), begin % page);
    invert(view.segment(0));
    EXPECT_EQ(view.diverged_bytes(), ((end + page - 1) / page - begin / page) * page);
    EXPECT_TRUE(has_pattern(source_.bytes(), 0));
  }
}

TEST_F(ViewTest, neighbouring_segments_are_one_mapping_and_keep_their_distance) {
  const View view = view_of(Segments{source_.bytes().subspan(5000, 100), source_.bytes().subspan(64, 4000),
                                     source_.bytes().subspan(5120, 30000)});
  EXPECT_EQ(testing::mappings_of(file_.id()), 2U);  // The source's and the View's.
  EXPECT_EQ(view.segment(0).data() - view.segment(1).data(), 5000 - 64);
  EXPECT_EQ(view.segment(2).data() - view.segment(1).data(), 5120 - 64);
  EXPECT_TRUE(has_pattern(view.segment(0), 5000));
  EXPECT_TRUE(has_pattern(view.segment(1), 64));
  EXPECT_TRUE(has_pattern(view.segment(2), 5120));
  EXPECT_EQ(view.nbytes(), 34100U);
}

TEST_F(ViewTest, segments_that_overlap_overlap_in_the_view) {
  const View view = view_of(Segments{source_.bytes(), source_.bytes().subspan(9000, 50)});
  view.segment(1)[3] = std::byte{77};
  EXPECT_EQ(view.segment(0)[9003], std::byte{77});
}

TEST_F(ViewTest, a_segment_across_two_files_is_contiguous) {
  const SharedFile second(4);
  const Mapped place = testing::map_anonymous(5 * page_size());
  file_.map_over(place.bytes().data(), 2 * page_size(), 3 * page_size());
  second.map_over(place.bytes().data() + 2 * page_size(), 3 * page_size(), page_size());
  View view = view_of(Segments{place.bytes().subspan(100, 4 * page_size())});
  EXPECT_EQ(view.copied_bytes(), 0U) << view.private_copy_reason();
  const std::span<std::byte> bytes = view.segment(0);
  EXPECT_TRUE(std::ranges::equal(bytes, place.bytes().subspan(100, 4 * page_size())));
  EXPECT_TRUE(has_pattern(bytes.first(2 * page_size() - 100), 3 * page_size() + 100));
  EXPECT_TRUE(has_pattern(bytes.subspan(2 * page_size() - 100), page_size()));
  invert(bytes);
  EXPECT_EQ(view.diverged_bytes(), 5 * page_size());
  EXPECT_TRUE(has_pattern(source_.bytes(), 0));
  EXPECT_TRUE(has_pattern(second.map().bytes(), 0));
  view.reset();
  EXPECT_TRUE(std::ranges::equal(bytes, place.bytes().subspan(100, 4 * page_size())));
}

TEST_F(ViewTest, a_memfd_serves_as_well_as_a_file_in_dev_shm) {
  const FileDescriptor memory(::memfd_create("zerocopy_test", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(memory.number(), static_cast<off_t>(3 * page_size())), 0);
  const Mapped mapped(::mmap(nullptr, 3 * page_size(), PROT_READ | PROT_WRITE, MAP_SHARED, memory.number(), 0),
                      3 * page_size());
  mapped.bytes()[9] = std::byte{9};
  const View view = view_of(mapped);
  EXPECT_EQ(view.copied_bytes(), 0U) << view.private_copy_reason();
  view.segment(0)[10] = std::byte{10};
  EXPECT_EQ(view.segment(0)[9], std::byte{9});
  EXPECT_EQ(mapped.bytes()[10], std::byte{0});
}

TEST_F(ViewTest, reset_brings_the_shared_content_back_at_the_same_addresses) {
  View view = view_of(source_);
  const std::span<std::byte> bytes = view.segment(0);
  for (int round = 0; round < 3; ++round) {
    invert(bytes.subspan(page_size() / 2, 3 * page_size()));
    EXPECT_EQ(view.diverged_bytes(), 4 * page_size());
    view.reset();
    EXPECT_EQ(view.diverged_bytes(), 0U);
    EXPECT_EQ(view.segment(0).data(), bytes.data());
    EXPECT_TRUE(has_pattern(bytes, 0));
    EXPECT_EQ(view.diverged_bytes(), 0U);
  }
}

TEST_F(ViewTest, reset_shows_what_the_file_has_by_then) {
  View view = view_of(source_);
  invert(view.segment(0));
  source_.bytes()[1] = std::byte{99};
  view.reset();
  EXPECT_EQ(view.segment(0)[1], std::byte{99});
}

TEST_F(ViewTest, both_ways_to_count_diverged_bytes_agree_through_prefault_writes_and_reset) {
  OldKernel old_kernel;
  for (System* const system : {&System::real(), static_cast<System*>(&old_kernel)}) {
    View view = view_of(source_, *system);
    view.prefault();
    view.wait_prefault();
    EXPECT_EQ(view.diverged_bytes(), 0U);
    view.segment(0)[4 * page_size()] = std::byte{1};
    view.segment(0)[7 * page_size()] = std::byte{1};
    EXPECT_EQ(view.diverged_bytes(), 2 * page_size());
    view.reset();
    EXPECT_EQ(view.diverged_bytes(), 0U);
    view.prefault(2);
    view.wait_prefault();
    EXPECT_EQ(view.diverged_bytes(), 0U);
    EXPECT_TRUE(has_pattern(view.segment(0), 0));
  }
}

TEST_F(ViewTest, prefault_takes_all_page_faults_ahead) {
  View view = view_of(source_);
  view.prefault(2);
  view.wait_prefault();
  EXPECT_EQ(testing::pages_in_page_table(view.segment(0)), 10U);
}

TEST_F(ViewTest, a_view_may_go_while_it_is_being_prefaulted) {
  const SharedFile large(4000, SharedFile::Content::zeros);
  const Mapped mapped = large.map();
  const std::size_t threads = testing::threads();
  for (int round = 0; round < 50; ++round) {
    View view = view_of(mapped);
    view.prefault(2);
  }
  EXPECT_TRUE(testing::threads_become(threads));
}

TEST_F(ViewTest, empty_segments_are_empty_and_keep_their_place) {
  const View view = view_of(Segments{{}, source_.bytes().first(10), source_.bytes().first(0)});
  EXPECT_EQ(view.size(), 3U);
  EXPECT_EQ(view.nbytes(), 10U);
  EXPECT_TRUE(view.segment(0).empty());
  EXPECT_EQ(view.segment(1).size(), 10U);
  EXPECT_TRUE(view.segment(2).empty());
  EXPECT_EQ(view.private_copy_reason(), "");
}

TEST_F(ViewTest, a_view_of_nothing_does_nothing) {
  View view = view_of(Segments{});
  EXPECT_EQ(view.size(), 0U);
  EXPECT_EQ(view.nbytes(), 0U);
  view.prefault();
  view.wait_prefault();
  view.reset();
  EXPECT_EQ(view.diverged_bytes(), 0U);
}

TEST_F(ViewTest, a_segment_that_is_not_there_is_refused) {
  const View view = view_of(source_);
  EXPECT_EQ(refusal([&] { static_cast<void>(view.segment(1)); }).code(), Error::Code::no_such_segment);
}

TEST_F(ViewTest, heap_memory_is_copied_and_the_view_says_so) {
  std::vector<std::byte> heap(10000, std::byte{5});
  View view = view_of(Segments{heap});
  EXPECT_EQ(view.copied_bytes(), 10000U);
  EXPECT_NE(view.private_copy_reason().find("private memory"), std::string::npos) << view.private_copy_reason();
  EXPECT_EQ(address_of(view.segment(0).data()) % 64, 0U);
  view.segment(0)[1] = std::byte{6};
  EXPECT_EQ(heap[1], std::byte{5});
  EXPECT_EQ(view.diverged_bytes(), 0U);
  view.reset();
  EXPECT_TRUE(std::ranges::equal(view.segment(0), heap));
}

TEST_F(ViewTest, stats_say_what_is_shared_what_was_copied_and_why_and_what_has_diverged) {
  const std::vector<std::byte> heap(10000, std::byte{5});
  View view = view_of(Segments{source_.bytes(), heap});
  ViewStats stats = view.stats();
  EXPECT_EQ(stats.nbytes, file_.length() + heap.size());
  EXPECT_EQ(stats.shared_bytes, file_.length());
  EXPECT_EQ(stats.copied_bytes, heap.size());
  EXPECT_EQ(stats.private_copy_reason, view.private_copy_reason());
  EXPECT_EQ(view.private_copy_code(), Error::Code::not_shared);
  EXPECT_EQ(view_of(source_).private_copy_code(), std::nullopt);
  EXPECT_NE(stats.private_copy_reason, "");
  EXPECT_EQ(stats.diverged_bytes, 0U);
  EXPECT_EQ(stats.resident_bytes, 0U);
  EXPECT_EQ(stats.page_table_bytes, 0U);

  view.prefault();
  view.wait_prefault();
  invert(view.segment(0).first(3 * page_size() / 2));
  invert(view.segment(1));
  stats = view.stats();
  EXPECT_EQ(stats.shared_bytes, file_.length() - 2 * page_size());
  EXPECT_EQ(stats.diverged_bytes, 2 * page_size());
  EXPECT_EQ(stats.resident_bytes, file_.length());
  EXPECT_GE(stats.page_table_bytes, page_size());
  EXPECT_EQ(stats.copied_bytes, heap.size());

  view.reset();
  EXPECT_EQ(view.stats().diverged_bytes, 0U);
  EXPECT_EQ(view.stats().shared_bytes, file_.length());
}

TEST_F(ViewTest, stats_of_a_view_whose_writes_are_watched_are_the_same) {
  View view = view_of(source_);
  view.watch_writes();
  EXPECT_EQ(view.stats().diverged_bytes, 0U);
  invert(view.segment(0).last(1));
  EXPECT_EQ(view.stats().diverged_bytes, page_size());
  EXPECT_EQ(view.stats().shared_bytes, file_.length() - page_size());
}

TEST_F(ViewTest, mapped_pages_are_those_of_the_shared_segments) {
  const std::vector<std::byte> heap(100, std::byte{5});
  const View view = view_of(Segments{source_.bytes().subspan(page_size() + 9, 50), heap, source_.bytes().last(60)});
  const std::vector<std::span<const std::byte>> pages = view.mapped_pages();
  ASSERT_EQ(pages.size(), 2U);
  for (const std::span<const std::byte> range : pages) {
    EXPECT_EQ(range.size(), page_size());
    EXPECT_EQ(offset_in_page(range.data()), 0U);
  }
  EXPECT_EQ(view_of(Segments{heap}).mapped_pages().size(), 0U);
  EXPECT_EQ(view_of(Segments{heap}).stats().shared_bytes, 0U);
}

TEST_F(ViewTest, shared_and_private_segments_go_together) {
  const std::vector<std::byte> heap(100, std::byte{5});
  View view = view_of(Segments{source_.bytes().first(50), heap, source_.bytes().last(60)});
  EXPECT_EQ(view.nbytes(), 210U);
  EXPECT_EQ(view.copied_bytes(), 100U);
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
  EXPECT_TRUE(std::ranges::equal(view.segment(1), heap));
  EXPECT_TRUE(has_pattern(view.segment(2), file_.length() - 60));
  for (std::size_t index = 0; index < 3; ++index) {
    invert(view.segment(index));
  }
  EXPECT_EQ(view.diverged_bytes(), 2 * page_size());
  view.reset();
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
  EXPECT_TRUE(std::ranges::equal(view.segment(1), heap));
  EXPECT_TRUE(has_pattern(view.segment(2), file_.length() - 60));
}

TEST_F(ViewTest, a_file_that_only_the_parent_holds_open_is_shared) {
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              file_.close();
              const View view = view_of(source_);
              invert(view.segment(0));
              return has_pattern(source_.bytes(), 0) ? view.private_copy_reason() : "the source was written to";
            }),
            "");
}

TEST_F(ViewTest, a_file_that_only_a_raylet_holds_open_is_shared) {
  const Bystander raylet("raylet");
  file_.close();
  const View view = view_of(source_);
  EXPECT_EQ(view.private_copy_reason(), "");
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
}

TEST_F(ViewTest, a_file_that_nobody_holds_open_is_copied) {
  file_.close();
  const View view = view_of(source_);
  EXPECT_EQ(view.copied_bytes(), view.nbytes());
  EXPECT_NE(view.private_copy_reason().find("holds file"), std::string::npos) << view.private_copy_reason();
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
}

TEST_F(ViewTest, nothing_is_ever_opened_for_writing) {
  const Bystander raylet("raylet");  // Holds it for reading and writing.
  const FileId id = file_.id();
  file_.close();
  const View view = view_of(source_);
  invert(view.segment(0));
  std::size_t found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int number = std::stoi(entry.path().filename());
    const Result<FileStatus> status = System::real().status(number);
    if (status.ok() && status.value.id == id) {
      EXPECT_EQ(::fcntl(number, F_GETFL) & O_ACCMODE, O_RDONLY);
      ++found;
    }
  }
  EXPECT_EQ(found, 1U);
}

TEST_F(ViewTest, a_mapping_that_the_kernel_refuses_is_a_copy_with_its_reason) {
  class Refusing : public ForwardingSystem {
   public:
    Result<std::byte*> map_private(int /*descriptor*/, std::uint64_t /*offset*/, std::size_t /*length*/,
                                   std::byte* /*address*/) override {
      return {nullptr, ENOMEM};
    }
  } refusing;
  const View view = view_of(Segments{source_.bytes().first(100), source_.bytes().last(100)}, refusing);
  EXPECT_EQ(view.copied_bytes(), 200U);
  EXPECT_NE(view.private_copy_reason().find("Cannot allocate memory"), std::string::npos) << view.private_copy_reason();
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
  EXPECT_TRUE(has_pattern(view.segment(1), file_.length() - 100));
}

TEST_F(ViewTest, without_proc_everything_is_a_copy_with_its_reason) {
  class NoProc : public ForwardingSystem {
   public:
    Result<FileDescriptor> open(const std::string& /*path*/) override { return {{}, ENOENT}; }
    Result<std::string> read_file(const std::string& /*path*/) override { return {{}, ENOENT}; }
  } no_proc;
  const View view = view_of(source_, no_proc);
  EXPECT_EQ(view.copied_bytes(), view.nbytes());
  EXPECT_NE(view.private_copy_reason().find("/proc/self/maps"), std::string::npos) << view.private_copy_reason();
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
}

TEST_F(ViewTest, descriptors_that_may_not_be_opened_make_a_copy_with_its_reason) {
  class Forbidden : public ForwardingSystem {
   public:
    Result<FileDescriptor> open_held_file(int /*process*/, const FileId& /*file*/) override { return {{}, EACCES}; }
  } forbidden;
  const View view = view_of(source_, forbidden);
  EXPECT_EQ(view.copied_bytes(), view.nbytes());
  EXPECT_NE(view.private_copy_reason(), "");
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
}

TEST_F(ViewTest, an_old_kernel_shares_as_well) {
  OldKernel old_kernel;
  View view = view_of(source_, old_kernel);
  EXPECT_EQ(view.private_copy_reason(), "");
  view.prefault();
  view.wait_prefault();
  invert(view.segment(0));
  EXPECT_EQ(view.diverged_bytes(), view.nbytes());
  EXPECT_TRUE(has_pattern(source_.bytes(), 0));
}

TEST_F(ViewTest, an_unreadable_pagemap_is_an_error_and_the_view_goes_on) {
  class NoPagemap : public ForwardingSystem {
   public:
    Result<FileDescriptor> open(const std::string& path) override {
      return path == "/proc/self/pagemap" ? Result<FileDescriptor>{{}, EACCES} : ForwardingSystem::open(path);
    }
  } no_pagemap;
  View view = view_of(source_, no_pagemap);
  EXPECT_THROW(static_cast<void>(view.diverged_bytes()), Error);
  invert(view.segment(0));
  view.reset();
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
}

TEST_F(ViewTest, a_reset_that_the_kernel_refuses_is_an_error_with_its_errno) {
  class Locked : public ForwardingSystem {
   public:
    int discard(std::span<std::byte> /*range*/) override { return EINVAL; }
  } locked;
  View view = view_of(source_, locked);
  const Error error = refusal([&] { view.reset(); });
  EXPECT_EQ(error.code(), Error::Code::system_call);
  EXPECT_EQ(error.system_error(), EINVAL);
}

TEST_F(ViewTest, the_source_is_kept_until_the_view_goes) {
  auto source = std::make_shared<Mapped>(file_.map());
  const std::weak_ptr<Mapped> watched = source;
  {
    const Segments segments{source->bytes()};
    std::optional<View> view(std::in_place, segments, std::move(source));
    const View moved(std::move(*view));
    view.reset();
    EXPECT_FALSE(watched.expired());
    EXPECT_TRUE(has_pattern(moved.segment(0), 0));
  }
  EXPECT_TRUE(watched.expired());
}

TEST_F(ViewTest, the_source_is_kept_for_a_child_that_has_the_view_and_not_given_back_there) {
  auto source = std::make_shared<Mapped>(file_.map());
  const std::weak_ptr<Mapped> watched = source;
  const Segments segments{source->bytes()};
  std::optional<View> view(std::in_place, segments, std::move(source));
  const Bystander child("child");
  EXPECT_EQ(problem_in_child([&] {
              view.reset();
              return watched.expired() ? "given back" : "";
            }),
            "");
  view.reset();
  const View another = view_of(source_);
  EXPECT_FALSE(watched.expired());
}

TEST_F(ViewTest, a_moved_view_keeps_its_addresses_and_is_freed_once) {
  class Counting : public ForwardingSystem {
   public:
    int unmap(std::span<std::byte> range) override {
      ++unmapped;
      return ForwardingSystem::unmap(range);
    }
    std::atomic<int> unmapped{0};
  } counting;
  {
    View first = view_of(source_, counting);
    const std::byte* const address = first.segment(0).data();
    View second(std::move(first));
    EXPECT_EQ(second.segment(0).data(), address);
    View third = view_of(source_, counting);
    third = std::move(second);
    EXPECT_EQ(counting.unmapped, 1);
    EXPECT_EQ(third.segment(0).data(), address);
    EXPECT_TRUE(has_pattern(third.segment(0), 0));
  }
  EXPECT_EQ(counting.unmapped, 2);
}

TEST_F(ViewTest, a_child_after_fork_has_a_view_of_its_own_and_may_drop_it) {
  std::optional<View> view(view_of(source_));
  invert(view->segment(0).first(page_size()));
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              if (view->diverged_bytes() != page_size()) {
                return "the parent's write is not there";
              }
              invert(view->segment(0).subspan(page_size()));
              view->reset();
              if (!has_pattern(view->segment(0), 0)) {
                return "reset did not bring the shared content back";
              }
              view->prefault(2);
              view->wait_prefault();
              view.reset();
              return has_pattern(view_of(source_).segment(0), 0) ? "" : "a new view is wrong";
            }),
            "");
  EXPECT_EQ(view->diverged_bytes(), page_size());
  EXPECT_TRUE(has_pattern(view->segment(0).subspan(page_size()), page_size()));
}

TEST_F(ViewTest, a_child_forked_during_a_prefault_may_use_and_drop_the_view) {
  const SharedFile large(8000, SharedFile::Content::zeros);
  const Mapped mapped = large.map();
  for (int round = 0; round < 10; ++round) {
    std::optional<View> view(view_of(mapped));
    view->prefault(2);
    EXPECT_EQ(problem_in_child([&]() -> std::string {
                view->wait_prefault();
                const bool right = view->segment(0).back() == std::byte{0};
                view.reset();
                return right ? "" : "the view is wrong";
              }),
              "");
  }
}

TEST_F(ViewTest, sixty_four_threads_make_and_drop_views_at_once) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  threads.reserve(64);
  for (int nth = 0; nth < 64; ++nth) {
    threads.emplace_back([&, nth] {
      for (int round = 0; round < 20; ++round) {
        View view = view_of(source_);
        view.prefault();
        view.segment(0)[static_cast<std::size_t>(nth)] = std::byte{1};
        wrong += view.copied_bytes() == 0 && view.diverged_bytes() == page_size() &&
                         has_pattern(view.segment(0).subspan(64), 64)
                     ? 0
                     : 1;
        view.reset();
        wrong += has_pattern(view.segment(0).first(64), 0) ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(has_pattern(source_.bytes(), 0));
}

TEST_F(ViewTest, many_threads_may_use_one_view_at_once) {
  View view = view_of(source_);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  threads.reserve(10);
  for (std::size_t nth = 0; nth < 10; ++nth) {
    threads.emplace_back([&, nth] {
      const std::span<std::byte> page = view.segment(0).subspan(nth * page_size(), page_size());
      for (int round = 0; round < 20; ++round) {
        view.prefault(2);
        invert(page);
        invert(page);
        wrong += has_pattern(page, nth * page_size()) ? 0 : 1;
        wrong += view.diverged_bytes() >= page_size() ? 0 : 1;
        view.wait_prefault();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(view.diverged_bytes(), view.nbytes());
}

TEST_F(ViewTest, descriptors_threads_and_mappings_do_not_grow_over_ten_thousand_rounds) {
  const std::vector<std::byte> heap(100);
  const auto round = [&](int nth) {
    View view = view_of(Segments{source_.bytes().subspan(10, 5000), heap, source_.bytes().last(1)});
    view.segment(0)[0] = std::byte{1};
    if (nth % 100 == 0) {
      view.prefault(2);
      EXPECT_EQ(view.diverged_bytes(), page_size());
    }
  };
  const std::size_t threads = testing::threads();
  round(0);  // What is allocated once and for all.
  const std::size_t descriptors = testing::open_descriptors();
  for (int nth = 0; nth < 10'000; ++nth) {
    round(nth);
  }
  EXPECT_EQ(testing::open_descriptors(), descriptors);
  EXPECT_TRUE(testing::threads_become(threads));
  EXPECT_EQ(testing::mappings_of(file_.id()), 1U);
}

}  // namespace
}  // namespace zerocopy
