#include "system/source.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "child_process.h"
#include "forwarding_system.h"
#include "process_state.h"

namespace zerocopy::testing {
namespace {

// Something to hold, that tells when it was given back.
class Held {
 public:
  [[nodiscard]] std::shared_ptr<const void> take() const {
    return {this, [given_back = given_back_](const void* /*unused*/) { *given_back = true; }};
  }
  [[nodiscard]] bool is_given_back() const { return *given_back_; }

  // Whether it is, in time.
  [[nodiscard]] bool becomes_given_back() const {
    constexpr int tries = 5000;
    for (int nth = 0; nth < tries && !is_given_back(); ++nth) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return is_given_back();
  }

 private:
  std::shared_ptr<std::atomic<bool>> given_back_ = std::make_shared<std::atomic<bool>>(false);
};

// A forked process that waits for its end.
class Child {
 public:
  Child() : process_(::fork()) {
    if (process_ == 0) {
      ::alarm(60);
      ::pause();
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Child(Child&&) = delete;
  Child& operator=(Child&&) = delete;
  ~Child() { end(); }

  void end() {
    if (process_ != 0) {
      ::kill(process_, SIGKILL);
      ::waitpid(process_, nullptr, 0);
      process_ = 0;
    }
  }

 private:
  pid_t process_;
};

const char* problem_with_a_source() {
  const Held held;
  std::optional<Source> source(held.take());
  source.reset();
  return held.is_given_back() ? "" : "kept";
}

TEST(SourceTest, gives_back_what_it_held_when_it_goes) {
  const Held held;
  {
    const Source source(held.take());
    EXPECT_FALSE(held.is_given_back());
  }
  EXPECT_TRUE(held.is_given_back());
}

TEST(SourceTest, of_a_parent_is_not_given_back_by_a_child) {
  const Held held;
  std::optional<Source> source(held.take());
  EXPECT_EQ(problem_in_child([&] {
              source.reset();
              return held.is_given_back() ? "given back" : "";
            }),
            "");
  source.reset();
  EXPECT_TRUE(held.is_given_back());
}

TEST(SourceTest, kept_for_a_child_is_not_given_back_by_it) {
  const Held held;
  std::optional<Source> source(held.take());
  const Child child;
  source.reset();
  EXPECT_EQ(problem_in_child([&] {
              const Source own(nullptr);
              return held.is_given_back() ? "given back" : "";
            }),
            "");
  EXPECT_FALSE(held.is_given_back());
}

TEST(SourceTest, of_a_child_is_given_back_there) {
  const Source of_parent(nullptr);
  EXPECT_EQ(problem_in_child(problem_with_a_source), "");
}

TEST(SourceTest, is_kept_until_a_child_has_ended_and_then_given_back_by_itself) {
  const std::size_t threads_before = threads();
  const std::size_t descriptors = open_descriptors();
  const Held held;
  {
    std::optional<Source> source(held.take());
    const Child child;
    source.reset();
    EXPECT_FALSE(held.is_given_back());
  }
  EXPECT_TRUE(held.becomes_given_back());
  EXPECT_TRUE(threads_become(threads_before));
  EXPECT_EQ(open_descriptors(), descriptors);
}

TEST(SourceTest, is_kept_for_grandchildren_too) {
  const Held held;
  std::optional<Source> source(held.take());
  Pipe until = System::real().open_pipe().value;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::fork() == 0) {
      ::alarm(60);
      until.write = {};
      char byte = 0;
      static_cast<void>(::read(until.read.number(), &byte, 1) == 0);
    }
    ::syscall(SYS_exit_group, 0);
  }
  ::waitpid(child, nullptr, 0);
  source.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(held.is_given_back());
  until.write = {};
  EXPECT_TRUE(held.becomes_given_back());
}

TEST(SourceTest, is_not_kept_for_a_process_that_called_exec) {
  const Held held;
  std::optional<Source> source(held.take());
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/bin/sleep", "sleep", "60", nullptr);
    ::syscall(SYS_exit_group, 1);
  }
  source.reset();
  EXPECT_TRUE(held.becomes_given_back());
  EXPECT_EQ(::waitpid(child, nullptr, WNOHANG), 0);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST(SourceTest, is_not_kept_for_forks_before_or_after_its_time) {
  const Source another(nullptr);
  const Child before;
  const Held held;
  std::optional<Source> source(held.take());
  source.reset();
  EXPECT_TRUE(held.is_given_back());

  std::optional<Source> kept(held.take());
  Child meanwhile;
  kept.reset();
  const Child after;
  meanwhile.end();
  EXPECT_TRUE(held.becomes_given_back());
}

TEST(SourceTest, is_given_back_only_when_the_last_of_its_children_has_ended) {
  const Held held;
  std::optional<Source> source(held.take());
  Child first;
  const Held held_shorter;
  std::optional<Source> shorter(held_shorter.take());
  Child second;
  source.reset();
  shorter.reset();
  second.end();
  EXPECT_TRUE(held_shorter.becomes_given_back());
  EXPECT_FALSE(held.is_given_back());
  first.end();
  EXPECT_TRUE(held.becomes_given_back());
}

TEST(SourceTest, costs_a_fork_a_descriptor_in_each_process_until_the_child_has_ended) {
  const Source source(nullptr);
  const std::size_t before = open_descriptors();
  for (int round = 0; round < 10; ++round) {
    EXPECT_EQ(problem_in_child([&] {
                constexpr std::size_t to_tell = 1;  // The write end of problem_in_child's own pipe, and its read end.
                return open_descriptors() <= before + to_tell + 2 ? "" : std::to_string(open_descriptors());
              }),
              "");
  }
  EXPECT_LE(open_descriptors(), before + 1);
  const Source sweep(nullptr);
  EXPECT_EQ(open_descriptors(), before);
}

TEST(SourceTest, is_kept_for_good_where_no_pipe_can_be_made) {
  class NoPipes : public ForwardingSystem {
   public:
    Result<Pipe> open_pipe() override { return {{}, EMFILE}; }
  };
  const std::size_t threads_before = threads();
  NoPipes system;
  const Held held;
  std::optional<Source> source(std::in_place, held.take(), system);
  EXPECT_EQ(problem_in_child([] { return ""; }), "");
  source.reset();
  const Source sweep(nullptr);
  EXPECT_FALSE(held.is_given_back());
  EXPECT_TRUE(threads_become(threads_before));
}

TEST(SourceTest, is_given_back_by_the_next_one_where_the_kernel_does_not_wait_for_children) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "UndefinedBehaviorSanitizer looks at objects through pipes of its own";
#endif
  EXPECT_EQ(problem_in_child([] {
              const Held held;
              auto source = std::make_optional<Source>(held.take());
              Child child;
              using Limit = struct rlimit;
              Limit usual{};
              ::getrlimit(RLIMIT_NOFILE, &usual);
              const Limit none{0, usual.rlim_max};
              source.reset();
              std::this_thread::sleep_for(std::chrono::milliseconds(50));
              ::setrlimit(RLIMIT_NOFILE, &none);  // So that poll(2) is an error.
              std::this_thread::sleep_for(std::chrono::milliseconds(600));
              ::setrlimit(RLIMIT_NOFILE, &usual);
              if (held.is_given_back()) {
                return "given back though the child has it";
              }
              child.end();
              const Source next(nullptr);
              return held.becomes_given_back() ? "" : "not given back though the child has ended";
            }),
            "");
}

TEST(SourceTest, is_not_given_back_by_itself_once_that_is_stopped) {
  EXPECT_EQ(problem_in_child([] {
              const Held held;
              std::optional<Source> source(held.take());
              Child child;
              source.reset();
              Source::stop_waiting();
              child.end();
              std::this_thread::sleep_for(std::chrono::milliseconds(20));
              if (held.is_given_back()) {
                return "given back";
              }
              const Source sweep(nullptr);
              return held.is_given_back() ? "" : "kept";
            }),
            "");
}

TEST(SourceTest, can_be_used_in_a_child_whatever_other_threads_of_the_parent_did) {
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) {
      const Source source(nullptr);
    }
  });
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(problem_in_child(problem_with_a_source), "");
  }
  done = true;
  other.join();
}

}  // namespace
}  // namespace zerocopy::testing
