#include "window/prefault.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "attempt.h"
#include "child_process.h"
#include "forwarding_system.h"
#include "process_state.h"
#include "shared_file.h"
#include "watch/pagemap.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using testing::ForwardingSystem;
using testing::Mapped;
using testing::page_size;
using testing::pages_in_page_table;
using testing::problem_in_child;
using testing::refusal;
using testing::SharedFile;

System& real = System::real();

// Lets its threads in one by one: each waits in populate() until the test lets go.
class Gate : public ForwardingSystem {
 public:
  int populate(std::span<const std::byte> range) override {
    ++waiting;
    while (!open) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    ++passed;
    return ForwardingSystem::populate(range);
  }

  void wait_for(unsigned threads) const {
    while (waiting < threads) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  std::atomic<bool> open{false};
  std::atomic<unsigned> waiting{0};
  std::atomic<unsigned> passed{0};
};

// A private mapping of a file of eight chunks and a bit.
class PrefaultTest : public ::testing::Test {
 protected:
  static constexpr std::size_t pages = 8 * 512 + 3;

  [[nodiscard]] std::vector<std::span<std::byte>> ranges() const { return {mapped_.bytes()}; }

  const SharedFile file_{pages, SharedFile::Content::zeros};
  const Mapped mapped_{real.map_private(file_.descriptor(), 0, file_.length(), nullptr).value, file_.length()};
};

TEST_F(PrefaultTest, all_pages_are_in_the_page_table_afterwards_and_none_is_own) {
  for (const unsigned threads : {1U, 2U, Prefault::max_threads}) {
    real.discard(mapped_.bytes());
    EXPECT_EQ(pages_in_page_table(mapped_.bytes()), 0U);
    Prefault prefault(ranges(), real);
    prefault.start(threads);
    prefault.wait();
    EXPECT_EQ(pages_in_page_table(mapped_.bytes()), pages);
    EXPECT_EQ(Pagemap(real).own_bytes(mapped_.bytes()), 0U);
  }
}

TEST_F(PrefaultTest, several_ranges_are_all_gone_through) {
  const std::span<std::byte> all = mapped_.bytes();
  const std::vector<std::span<std::byte>> several{all.first(page_size()),
                                                  all.subspan(10 * page_size(), 500 * page_size())};
  Prefault prefault(several, real);
  prefault.start(2);
  prefault.wait();
  EXPECT_EQ(pages_in_page_table(several[0]), 1U);
  EXPECT_EQ(pages_in_page_table(several[1]), 500U);
}

TEST_F(PrefaultTest, where_the_kernel_lacks_the_call_a_byte_of_each_page_is_read) {
  testing::OldKernel old_kernel;
  Prefault prefault(ranges(), old_kernel);
  prefault.start(2);
  prefault.wait();
  EXPECT_EQ(pages_in_page_table(mapped_.bytes()), pages);
  EXPECT_EQ(Pagemap(real).own_bytes(mapped_.bytes()), 0U);
}

TEST_F(PrefaultTest, own_pages_keep_what_was_written_to_them) {
  mapped_.bytes()[page_size()] = std::byte{42};
  Prefault prefault(ranges(), real);
  prefault.start(1);
  prefault.wait();
  EXPECT_EQ(mapped_.bytes()[page_size()], std::byte{42});
}

TEST_F(PrefaultTest, nothing_starts_before_it_is_asked_to) {
  const Prefault prefault(ranges(), real);
  prefault.wait();
  EXPECT_EQ(pages_in_page_table(mapped_.bytes()), 0U);
}

TEST_F(PrefaultTest, nothing_to_do_starts_no_thread) {
  const std::size_t before = testing::threads();
  Prefault prefault({}, real);
  prefault.start(8);
  EXPECT_TRUE(testing::threads_become(before));
  prefault.wait();
}

TEST_F(PrefaultTest, no_more_threads_are_started_than_asked_for_or_of_use) {
  Gate gate;
  const std::size_t before = testing::threads();
  {
    Prefault prefault(ranges(), gate);
    prefault.start(3);
    gate.wait_for(3);
    EXPECT_TRUE(testing::threads_become(before + 3));
    gate.open = true;
  }
  gate.open = false;
  gate.waiting = 0;
  Prefault prefault(ranges(), gate);
  prefault.start(64);
  gate.wait_for(9);
  EXPECT_TRUE(testing::threads_become(before + 9));  // One a chunk.
  gate.open = true;
}

TEST_F(PrefaultTest, a_second_start_does_nothing_while_the_first_is_at_work_and_starts_again_afterwards) {
  Gate gate;
  const std::size_t before = testing::threads();
  Prefault prefault(ranges(), gate);
  prefault.start(1);
  gate.wait_for(1);
  prefault.start(5);
  EXPECT_TRUE(testing::threads_become(before + 1));
  gate.open = true;
  prefault.wait();
  EXPECT_EQ(gate.passed, 9U);
  prefault.start(2);
  prefault.wait();
  EXPECT_EQ(gate.passed, 18U);
}

TEST_F(PrefaultTest, dropping_it_cancels_what_is_left_and_leaves_no_thread) {
  Gate gate;
  const std::size_t before = testing::threads();
  std::thread opener;
  {
    Prefault prefault(ranges(), gate);
    prefault.start(2);
    gate.wait_for(2);
    opener = std::thread([&gate] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      gate.open = true;
    });
  }
  opener.join();
  EXPECT_LT(gate.passed, 9U);
  EXPECT_TRUE(testing::threads_become(before));
}

TEST_F(PrefaultTest, its_threads_take_no_signals) {
  class Watching : public ForwardingSystem {
   public:
    int populate(std::span<const std::byte> range) override {
      sigset_t blocked;
      ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
      took_signals = took_signals || ::sigismember(&blocked, SIGINT) == 0;
      return ForwardingSystem::populate(range);
    }
    std::atomic<bool> took_signals{false};
  } watching;
  Prefault prefault(ranges(), watching);
  prefault.start(1);
  prefault.wait();
  EXPECT_FALSE(watching.took_signals);
}

TEST_F(PrefaultTest, a_file_that_was_cut_short_ends_it_quietly) {
  ASSERT_EQ(::ftruncate(file_.descriptor(), 0), 0);
  Prefault prefault(ranges(), real);
  prefault.start(2);
  prefault.wait();
  EXPECT_EQ(pages_in_page_table(mapped_.bytes()), 0U);
}

TEST_F(PrefaultTest, an_impossible_number_of_threads_is_refused) {
  Prefault prefault(ranges(), real);
  for (const unsigned threads : {0U, Prefault::max_threads + 1, ~0U}) {
    EXPECT_EQ(refusal([&] { prefault.start(threads); }).code(), Error::Code::bad_thread_count) << threads;
  }
}

TEST_F(PrefaultTest, many_threads_may_start_it_and_wait_for_it_at_once) {
  Prefault prefault(ranges(), real);
  std::vector<std::thread> callers;
  callers.reserve(16);
  for (int nth = 0; nth < 16; ++nth) {
    callers.emplace_back([&prefault] {
      for (int round = 0; round < 10; ++round) {
        prefault.start(2);
        prefault.wait();
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  prefault.wait();
  EXPECT_EQ(pages_in_page_table(mapped_.bytes()), pages);
}

TEST_F(PrefaultTest, a_child_need_not_wait_for_its_parents_threads) {
  Gate gate;
  auto prefault = std::make_unique<Prefault>(ranges(), gate);
  prefault->start(2);
  gate.wait_for(2);
  EXPECT_EQ(problem_in_child([&] {
              prefault->wait();
              prefault.reset();
              return "";
            }),
            "");
  gate.open = true;
}

TEST_F(PrefaultTest, a_child_can_start_threads_of_its_own_whatever_its_parent_was_at) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer takes a child's thread for the parent's thread that was at the same address";
#endif
  Gate gate;
  auto prefault = std::make_unique<Prefault>(ranges(), gate);
  const auto child_prefaults = [&]() -> std::string {
    gate.open = true;
    real.discard(mapped_.bytes());
    prefault->start(2);
    prefault->wait();
    const std::size_t present = pages_in_page_table(mapped_.bytes());
    prefault.reset();
    return present == pages ? "" : "only " + std::to_string(present) + " pages are there";
  };
  prefault->start(2);
  gate.wait_for(2);
  EXPECT_EQ(problem_in_child(child_prefaults), "") << "while the parent's threads were at work";
  gate.open = true;
  prefault->wait();
  EXPECT_EQ(problem_in_child(child_prefaults), "") << "when they had finished";
}

}  // namespace
}  // namespace zerocopy
