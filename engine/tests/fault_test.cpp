// Every call to the operating system fails once, and each way that a kernel may lack is switched off.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
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
#include "zerocopy/view.h"

namespace zerocopy {
namespace {

using testing::Bystander;
using testing::ForwardingSystem;
using testing::map_anonymous;
using testing::Mapped;
using testing::mappings_of;
using testing::open_descriptors;
using testing::page_size;
using testing::problem_in_child;
using testing::SharedFile;
using testing::tried;

// Refuses chosen calls, and keeps account of what is mapped. A call that is refused is not made.
class Refusing : public ForwardingSystem {
 public:
  enum class Call : std::uint8_t {
    reserve,
    map_private,
    unmap,
    populate,
    discard,
    query_mapping,
    scan_own_pages,
    open_write_watch,
    watch_writes,
    scan_written_pages,
    open,
    status,
    read_at,
    read_file,
    processes,
    process_name,
    open_held_file,
    open_pipe,
  };
  static constexpr std::array kCalls{
      Call::reserve,        Call::map_private,        Call::unmap,          Call::populate,
      Call::discard,        Call::query_mapping,      Call::scan_own_pages, Call::open_write_watch,
      Call::watch_writes,   Call::scan_written_pages, Call::open,           Call::status,
      Call::read_at,        Call::read_file,          Call::processes,      Call::process_name,
      Call::open_held_file, Call::open_pipe};

  Result<std::byte*> reserve(std::size_t length) override {
    return noted(asked<std::byte*>(Call::reserve, [&] { return ForwardingSystem::reserve(length); }), length);
  }
  Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::size_t length,
                                 std::byte* address) override {
    const Result<std::byte*> mapped = asked<std::byte*>(
        Call::map_private, [&] { return ForwardingSystem::map_private(descriptor, offset, length, address); });
    return address == nullptr ? noted(mapped, length) : mapped;
  }
  int unmap(std::span<std::byte> range) override {
    const int error = refusal(Call::unmap);
    if (error == 0) {
      mapped_.erase({range.data(), range.size()});
    }
    return error != 0 ? error : ForwardingSystem::unmap(range);
  }
  int populate(std::span<const std::byte> range) override {
    const int error = refusal(Call::populate);
    return error != 0 ? error : ForwardingSystem::populate(range);
  }
  int discard(std::span<std::byte> range) override {
    const int error = refusal(Call::discard);
    return error != 0 ? error : ForwardingSystem::discard(range);
  }
  Result<Mapping> query_mapping(int maps, std::uintptr_t address) override {
    return asked<Mapping>(Call::query_mapping, [&] { return ForwardingSystem::query_mapping(maps, address); });
  }
  Result<PageScan> scan_own_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    return asked<PageScan>(Call::scan_own_pages, [&] { return ForwardingSystem::scan_own_pages(pagemap, begin, end); });
  }
  Result<FileDescriptor> open_write_watch() override {
    return asked<FileDescriptor>(Call::open_write_watch, [&] { return ForwardingSystem::open_write_watch(); });
  }
  int watch_writes(int watch, std::span<std::byte> range) override {
    const int error = refusal(Call::watch_writes);
    return error != 0 ? error : ForwardingSystem::watch_writes(watch, range);
  }
  Result<WrittenPages> scan_written_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    return asked<WrittenPages>(Call::scan_written_pages,
                               [&] { return ForwardingSystem::scan_written_pages(pagemap, begin, end); });
  }
  Result<FileDescriptor> open(const std::string& path) override {
    return asked<FileDescriptor>(Call::open, [&] { return ForwardingSystem::open(path); });
  }
  Result<FileStatus> status(int descriptor) override {
    return asked<FileStatus>(Call::status, [&] { return ForwardingSystem::status(descriptor); });
  }
  Result<std::size_t> read_at(int descriptor, std::span<std::byte> into, std::uint64_t offset) override {
    return asked<std::size_t>(Call::read_at, [&] { return ForwardingSystem::read_at(descriptor, into, offset); });
  }
  Result<std::string> read_file(const std::string& path) override {
    return asked<std::string>(Call::read_file, [&] { return ForwardingSystem::read_file(path); });
  }
  Result<std::vector<int>> processes() override {
    return asked<std::vector<int>>(Call::processes, [&] { return ForwardingSystem::processes(); });
  }
  Result<std::string> process_name(int process) override {
    return asked<std::string>(Call::process_name, [&] { return ForwardingSystem::process_name(process); });
  }
  Result<FileDescriptor> open_held_file(int process, const FileId& file) override {
    return asked<FileDescriptor>(Call::open_held_file, [&] { return ForwardingSystem::open_held_file(process, file); });
  }
  Result<Pipe> open_pipe() override {
    return asked<Pipe>(Call::open_pipe, [&] { return ForwardingSystem::open_pipe(); });
  }

  // What is still mapped: nothing, once all Views are gone, but what the kernel was said not to unmap; that is
  // unmapped.
  std::size_t take_mapped() {
    const std::size_t count = mapped_.size();
    for (const auto& [address, length] : std::exchange(mapped_, {})) {
      real().unmap({address, length});
    }
    return count;
  }

 protected:
  // The errno that a call fails with now; 0: it is made.
  virtual int refusal(Call call) = 0;

 private:
  template <typename T, typename Made>
  Result<T> asked(Call call, Made made) {
    if (const int error = refusal(call); error != 0) {
      return {T{}, error};
    }
    return made();
  }

  Result<std::byte*> noted(const Result<std::byte*>& mapped, std::size_t length) {
    if (mapped.ok()) {
      mapped_.emplace(mapped.value, length);
    }
    return mapped;
  }

  std::set<std::pair<std::byte*, std::size_t>> mapped_;
};

// What a kernel may lack, with what it says then.
using Lacking = std::vector<std::pair<Refusing::Call, int>>;

const Lacking& all_that_a_kernel_may_lack() {
  static const Lacking all{
      {Refusing::Call::query_mapping, ENOTTY}, {Refusing::Call::scan_own_pages, ENOTTY},
      {Refusing::Call::populate, EINVAL},      {Refusing::Call::open_write_watch, ENOSYS},
      {Refusing::Call::watch_writes, EINVAL},  {Refusing::Call::scan_written_pages, ENOTTY},
  };
  return all;
}

// Refuses every use of some calls.
class Lacks : public Refusing {
 public:
  explicit Lacks(Lacking lacking) : lacking_(std::move(lacking)) {}

 protected:
  int refusal(Call call) override {
    const auto found = std::ranges::find(lacking_, call, &Lacking::value_type::first);
    return found == lacking_.end() ? 0 : found->second;
  }

 private:
  Lacking lacking_;
};

// Refuses one call of those that it does not lack, counted over all members, threads and forked processes.
class FailsOnce final : public Lacks {
 public:
  // Sees no processes but this one and a bystander.
  FailsOnce(std::size_t nth, int error, const Lacking& lacking, int bystander)
      : Lacks(lacking), nth_(nth), error_(error), bystander_(bystander) {
    std::construct_at(state());
  }

  Result<std::vector<int>> processes() override {
    Result<std::vector<int>> found = Lacks::processes();
    if (found.ok()) {
      found.value = {process_id(), bystander_};
    }
    return found;
  }

  // The one that failed; none: fewer calls were made.
  [[nodiscard]] std::optional<Call> failed() const {
    const int call = state()->failed.load();
    return call == kNone ? std::nullopt : std::optional(static_cast<Call>(call));
  }

 protected:
  int refusal(Call call) override {
    if (const int lacking = Lacks::refusal(call); lacking != 0) {
      return lacking;
    }
    if (state()->made.fetch_add(1) != nth_) {
      return 0;
    }
    state()->failed.store(static_cast<int>(call));
    return error_;
  }

 private:
  static constexpr int kNone = -1;

  struct State {
    std::atomic<std::size_t> made{0};
    std::atomic<int> failed{kNone};
  };

  [[nodiscard]] State* state() const {
    return reinterpret_cast<State*>(memory_.bytes().data());  // NOLINT(cppcoreguidelines-pro-type-reinterpret-cast)
  }

  std::size_t nth_;
  int error_;
  int bystander_;
  Mapped memory_ = map_anonymous(page_size(), PROT_READ | PROT_WRITE, MAP_SHARED);
};

std::uint64_t pages(std::size_t count) { return count * page_size(); }

// A segment within a file, one across two files, and one of private memory; and all that a View is for, done to them.
class Script {
 public:
  Script() {
    first_.map_over(across_.bytes().data(), pages(2), pages(6));
    second_.map_over(across_.bytes().data() + pages(2), pages(2), 0);
    std::ranges::copy(source_.bytes().first(private_.bytes().size()), private_.bytes().begin());
    for (const std::span<const std::byte> segment : segments()) {
      originals_.emplace_back(segment.begin(), segment.end());
    }
  }

  // Returns what went wrong; empty: nothing. A step that throws is made again, which must succeed: a call fails once.
  std::string run(System& system) {
    auto held = std::make_shared<int>();
    given_back_ = held;
    std::optional<View> view;
    problem_.clear();
    if (!tried([&] { view.emplace(segments(), std::exchange(held, nullptr), system); })) {
      if (!given_back_.expired()) {
        return "what a View without success was given is not given back";
      }
      tried([&] { view.emplace(segments(), nullptr, system); });
    }
    if (!view) {
      return "no View though nothing fails any more";
    }
    expect(all_show_the_source(*view), "a new View shows other bytes");
    twice([&] { view->prefault(2); });
    view->wait_prefault();
    use(*view);
    twice([&] { view->watch_writes(); });
    twice([&] { view->watch_writes(); });
    use(*view);
    write(*view, 2);
    const std::string in_child = problem_in_child([&] {
      expect(has_written(*view, 2), "a child does not see what its parent wrote before");
      use(*view);
      twice([&] { view->watch_writes(); });
      use(*view);
      view.reset();
      return std::exchange(problem_, {});
    });
    expect(in_child.empty(), "in a child: " + in_child);
    expect(has_written(*view, 2), "a child's writes or resets are seen in its parent");
    twice([&] { view->reset(); });
    expect(all_show_the_source(*view), "what a child was forked beside does not come back");
    View moved = std::move(*view);
    use(moved);
    view.reset();
    const auto sources = segments();
    expect(are_original([&](std::size_t index) { return sources.at(index); }), "the source was written to");
    return std::exchange(problem_, {});
  }

  // Whether the bytes that the last run's View came from are needed no more.
  [[nodiscard]] bool gave_back() const { return given_back_.expired(); }

  // Somebody else has them open from now on, or nobody.
  void close_files() {
    first_.close();
    second_.close();
  }

  [[nodiscard]] std::size_t mappings() const { return mappings_of(first_id_) + mappings_of(second_id_); }

 private:
  [[nodiscard]] std::array<std::span<const std::byte>, 3> segments() const {
    return {source_.bytes().subspan(100, pages(5)), across_.bytes(), private_.bytes()};
  }

  [[nodiscard]] bool all_show_the_source(const View& view) const {
    return are_original([&](std::size_t index) { return view.segment(index); });
  }

  template <typename SegmentAt>
  [[nodiscard]] bool are_original(SegmentAt segment_at) const {
    for (std::size_t index = 0; index < originals_.size(); ++index) {
      if (std::memcmp(segment_at(index).data(), originals_[index].data(), originals_[index].size()) != 0) {
        return false;
      }
    }
    return true;
  }

  // One byte in each of some pages of every segment.
  static void write(const View& view, std::size_t count) {
    for (std::size_t index = 0; index < view.size(); ++index) {
      for (std::size_t page = 0; page < count; ++page) {
        std::byte& byte = view.segment(index)[pages(page)];
        byte = ~byte;
      }
    }
  }

  [[nodiscard]] bool has_written(const View& view, std::size_t count) const {
    write(view, count);
    const bool only_that = all_show_the_source(view);
    write(view, count);
    return only_that;
  }

  // Writes, asks, resets. A View that is asked what diverged tells exactly that.
  void use(const View& view) {
    View& writable = const_cast<View&>(view);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
    twice([&] { writable.reset(); });
    expect(all_show_the_source(view), "a reset View shows other bytes");
    expect_diverged(view, 0);
    write(view, 3);
    expect(has_written(view, 3), "a write is not there, or more than that was written");
    expect_diverged(view, 3);
    twice([&] { writable.reset(); });
    expect(all_show_the_source(view), "a reset View shows other bytes");
  }

  void expect_diverged(const View& view, std::size_t pages_in_each_segment) {
    std::uint64_t expected = 0;
    Mappings mappings(System::real());
    for (std::size_t index = 0; index < 2; ++index) {
      const std::optional<Mapping> mapping = mappings.find(address_of(view.segment(index).data()));
      expected += mapping && mapping->file.inode != 0 ? pages(pages_in_each_segment) : 0;
    }
    std::uint64_t diverged = 0;
    twice([&] { diverged = view.diverged_bytes(); });
    expect(diverged == expected, std::to_string(diverged) + " bytes diverged instead of " + std::to_string(expected));
    ViewStats stats;
    twice([&] { stats = view.stats(); });
    expect(stats.diverged_bytes == expected, "the stats have " + std::to_string(stats.diverged_bytes) + " diverged");
  }

  template <typename Step>
  void twice(Step step) {
    expect(tried(step) || tried(step), "a step fails that was refused nothing");
  }

  void expect(bool holds, const std::string& problem) {
    if (!holds) {
      problem_ += problem + "; ";
    }
  }

  SharedFile first_{10};
  SharedFile second_{4};
  FileId first_id_ = first_.id();
  FileId second_id_ = second_.id();
  Mapped source_ = first_.map();
  Mapped across_ = map_anonymous(4 * page_size());
  Mapped private_ = map_anonymous(4 * page_size());
  std::vector<std::vector<std::byte>> originals_;
  std::weak_ptr<int> given_back_;
  std::string problem_;
};

constexpr std::array kErrors{EACCES, EAGAIN, EINVAL, EMFILE, ENODEV, ENOENT, ENOMEM};

// A kernel that has everything, and one that has nothing new.
class EachCall : public ::testing::TestWithParam<std::tuple<int, bool>> {};

TEST_P(EachCall, fails_once_and_nothing_is_wrong_or_left_behind) {
  const auto [error, old_kernel] = GetParam();
  const Lacking lacking = old_kernel ? all_that_a_kernel_may_lack() : Lacking{};
  Script script;
  ASSERT_EQ(script.run(System::real()), "");
  // One process more for the engine to look at, behind its own and its parent.
  const Bystander raylet("raylet");
  script.close_files();
  const std::size_t descriptors = open_descriptors();
  const std::size_t mappings = script.mappings();
  std::set<Refusing::Call> seen;
  std::size_t nth = 0;
  for (bool fails = true; fails; ++nth) {
    FailsOnce system(nth, error, lacking, raylet.process());
    const std::string problem = script.run(system);
    const std::optional<Refusing::Call> failed = system.failed();
    fails = failed.has_value();
    const std::string what =
        "call " + std::to_string(nth) + " (" + (fails ? std::to_string(static_cast<int>(*failed)) : "none") + ")";
    EXPECT_EQ(problem, "") << what;
    EXPECT_LE(system.take_mapped(), failed == Refusing::Call::unmap ? 1U : 0U) << what;
    EXPECT_EQ(open_descriptors(), descriptors) << what;
    EXPECT_EQ(script.mappings(), mappings) << what;
    EXPECT_TRUE(script.gave_back() || failed == Refusing::Call::open_pipe) << what;
    if (failed) {
      seen.insert(*failed);
    }
  }
  for (const Refusing::Call call : Refusing::kCalls) {
    const bool is_lacking = std::ranges::count(lacking, call, &Lacking::value_type::first) != 0;
    const bool is_fallback = call == Refusing::Call::read_file;
    EXPECT_EQ(seen.contains(call), !is_lacking && (old_kernel || !is_fallback)) << "call " << static_cast<int>(call);
  }
  RecordProperty("calls", static_cast<int>(nth - 1));
}

INSTANTIATE_TEST_SUITE_P(of_the_operating_system, EachCall,
                         ::testing::Combine(::testing::ValuesIn(kErrors), ::testing::Bool()));

TEST(OlderKernels, every_set_of_calls_that_a_kernel_may_lack_leaves_the_answers_as_they_are) {
  const Lacking& all = all_that_a_kernel_may_lack();
  Script script;
  for (unsigned set = 0; set < 1U << all.size(); ++set) {
    for (const bool by_a_filter : {false, true}) {  // Of system calls.
      Lacking lacking;
      for (std::size_t nth = 0; nth < all.size(); ++nth) {
        if ((set >> nth & 1U) != 0) {
          lacking.emplace_back(all[nth].first, by_a_filter ? EPERM : all[nth].second);
        }
      }
      Lacks system(std::move(lacking));
      EXPECT_EQ(script.run(system), "") << "without the set " << set;
      EXPECT_EQ(system.take_mapped(), 0U);
      EXPECT_TRUE(script.gave_back());
    }
  }
}

}  // namespace
}  // namespace zerocopy
