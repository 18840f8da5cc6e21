#include "watch/write_watch.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "child_process.h"
#include "forwarding_system.h"
#include "process_state.h"
#include "shared_file.h"
#include "system/system.h"
#include "zerocopy/view.h"

namespace zerocopy {
namespace {

using testing::ForwardingSystem;
using testing::has_pattern;
using testing::Mapped;
using testing::OldKernel;
using testing::page_size;
using testing::pages_in_page_table;
using testing::problem_in_child;
using testing::SharedFile;

System& real = System::real();

class Watched : public ::testing::Test {
 protected:
  static constexpr std::size_t pages = 1000;

  void SetUp() override {
    if (watch_ == nullptr) {
      GTEST_SKIP() << "this kernel does not watch writes";
    }
  }

  void write(std::size_t page) const { mapped_.bytes()[page * page_size() + 1] = std::byte{0xEE}; }

  [[nodiscard]] std::uint64_t written_pages() const { return watch_->written_bytes() / page_size(); }

  const SharedFile file_{pages};
  const Mapped mapped_{real.map_private(file_.descriptor(), 0, file_.length(), nullptr).value, file_.length()};
  const std::unique_ptr<WriteWatch> watch_ = WriteWatch::begin({mapped_.bytes()}, real);
};

TEST_F(Watched, pages_never_written_do_not_count_touched_or_not) {
  EXPECT_EQ(written_pages(), 0U);
  real.populate(mapped_.bytes());
  EXPECT_EQ(written_pages(), 0U);
}

// The kernel maps no pages around a fault in a watched mapping; in another, only those that nobody has locked.
TEST_F(Watched, all_pages_are_populated_though_the_kernel_maps_none_around_them) {
  const Mapped unwatched{real.map_private(file_.descriptor(), 0, file_.length(), nullptr).value, file_.length()};
  for (const std::span<std::byte> bytes : {unwatched.bytes(), mapped_.bytes()}) {
    EXPECT_EQ(real.populate(bytes), 0);
    EXPECT_EQ(pages_in_page_table(bytes), pages);
  }
}

TEST_F(Watched, each_page_written_counts_once) {
  real.populate(mapped_.bytes().first(pages / 2 * page_size()));
  for (std::size_t page = 0; page < pages; page += 2) {  // More ranges than one scan has room for.
    write(page);
    write(page);
  }
  EXPECT_EQ(written_pages(), pages / 2);
}

TEST_F(Watched, writes_by_the_kernel_count) {
  const FileDescriptor zeros = std::move(real.open("/dev/zero").value);
  EXPECT_TRUE(real.read_at(zeros.number(), mapped_.bytes().subspan(3 * page_size(), 10), 0).ok());
  EXPECT_EQ(written_pages(), 1U);
}

TEST_F(Watched, what_is_discarded_has_the_files_content_and_is_watched_again) {
  real.populate(mapped_.bytes());
  write(3);
  write(4);
  write(700);
  watch_->discard_written();
  EXPECT_TRUE(has_pattern(mapped_.bytes(), 0));
  EXPECT_EQ(written_pages(), 0U);
  write(4);
  EXPECT_EQ(written_pages(), 1U);
}

TEST_F(Watched, the_file_and_its_other_mappings_see_no_write) {
  const Mapped shared = file_.map();
  write(5);
  EXPECT_TRUE(has_pattern(shared.bytes(), 0));
}

TEST(WriteWatchTest, there_is_none_where_the_kernel_is_older_or_refuses) {
  class Refusing : public ForwardingSystem {
   public:
    int watch_writes(int /*watch*/, std::span<std::byte> /*range*/) override { return EINVAL; }
  };
  class Silent : public ForwardingSystem {
   public:
    Result<WrittenPages> scan_written_pages(int /*pagemap*/, std::uintptr_t /*begin*/,
                                            std::uintptr_t /*end*/) override {
      return {{}, EINVAL};
    }
  };
  const SharedFile file(2);
  const Mapped mapped(real.map_private(file.descriptor(), 0, file.length(), nullptr).value, file.length());
  OldKernel old_kernel;
  Refusing refusing;
  Silent silent;
  EXPECT_EQ(WriteWatch::begin({mapped.bytes()}, old_kernel), nullptr);
  EXPECT_EQ(WriteWatch::begin({mapped.bytes()}, refusing), nullptr);
  EXPECT_EQ(WriteWatch::begin({mapped.bytes()}, silent), nullptr);
}

// A View counts and resets alike, watched or not.
class WatchedView : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr std::size_t pages = 64;

  [[nodiscard]] System& system() { return GetParam() ? real : old_kernel_; }

  View view() { return View(std::vector{std::span<const std::byte>(shared_.bytes())}, nullptr, system()); }

  OldKernel old_kernel_;
  const SharedFile file_{pages};
  const Mapped shared_ = file_.map();
};

TEST_P(WatchedView, counts_what_diverged_and_resets_it) {
  View view = this->view();
  view.watch_writes();
  view.segment(0)[0] = std::byte{1};
  view.segment(0)[10 * page_size()] = std::byte{1};
  EXPECT_EQ(view.diverged_bytes(), 2 * page_size());
  view.reset();
  EXPECT_EQ(view.diverged_bytes(), 0U);
  EXPECT_TRUE(has_pattern(view.segment(0), 0));
  view.segment(0)[5] = std::byte{1};
  EXPECT_EQ(view.diverged_bytes(), page_size());
}

TEST_P(WatchedView, is_not_watched_from_when_it_has_diverged) {
  View view = this->view();
  view.segment(0)[0] = std::byte{1};
  EXPECT_FALSE(view.watch_writes());
  EXPECT_EQ(view.diverged_bytes(), page_size());
}

TEST_P(WatchedView, counts_a_forked_childs_own_pages_in_the_child) {
  View view = this->view();
  view.watch_writes();
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              view.segment(0)[page_size()] = std::byte{1};
              if (view.diverged_bytes() != page_size()) {
                return std::to_string(view.diverged_bytes()) + " bytes diverged";
              }
              view.reset();
              return view.diverged_bytes() == 0 && has_pattern(view.segment(0), 0) ? "" : "not reset";
            }),
            "");
  EXPECT_EQ(view.diverged_bytes(), 0U);
}

TEST_P(WatchedView, may_be_asked_for_by_many_threads_at_once) {
  View view = this->view();
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int nth = 0; nth < 8; ++nth) {
    threads.emplace_back([&view] {
      view.watch_writes();
      EXPECT_EQ(view.diverged_bytes(), 0U);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const bool watched = view.watch_writes();
  EXPECT_EQ(view.watch_writes(), watched);
  view.segment(0)[0] = std::byte{1};
  EXPECT_EQ(view.diverged_bytes(), page_size());
}

TEST_P(WatchedView, can_be_watched_anew_in_a_forked_child) {
  View view = this->view();
  const bool watched = view.watch_writes();
  EXPECT_EQ(problem_in_child([&]() -> std::string {
              if (view.watch_writes() != watched) {
                return "the child cannot do what its parent can";
              }
              view.segment(0)[page_size()] = std::byte{1};
              return view.diverged_bytes() == page_size() ? "" : "the write was not noted";
            }),
            "");
  view.segment(0)[0] = std::byte{1};
  EXPECT_EQ(view.diverged_bytes(), page_size());
}

TEST_P(WatchedView, a_copy_has_nothing_to_watch) {
  const std::vector<std::byte> heap(100);
  View view(std::vector{std::span<const std::byte>(heap)}, nullptr, system());
  EXPECT_TRUE(view.watch_writes());
  view.segment(0)[0] = std::byte{1};
  EXPECT_EQ(view.diverged_bytes(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Kernels, WatchedView, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "this_kernel" : "an_old_kernel"; });

}  // namespace
}  // namespace zerocopy
