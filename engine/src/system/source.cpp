#include "system/source.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "system/immortal.h"

namespace zerocopy {
namespace {

using Released = std::vector<std::shared_ptr<const void>>;

// How long it may take until the waiting thread sees that there is one more fork to wait for.
constexpr std::chrono::milliseconds kLookAgain{500};

// A child that may use what was held when it was forked.
struct Fork {
  std::uint64_t number = 0;
  FileDescriptor ended;  // Hangs up when the child and its descendants are gone. None: that cannot be known.
};

// What was held by a Source that is gone, for the forks [first_fork, end_fork).
struct Kept {
  std::shared_ptr<const void> held;
  std::uint64_t first_fork = 0;
  std::uint64_t end_fork = 0;

  [[nodiscard]] bool is_for(const Fork& fork) const noexcept {
    return first_fork <= fork.number && fork.number < end_fork;
  }
};

// For an object that is another process's: its destructor must not run in this one.
template <typename T>
void forget(T& object) noexcept {
  std::construct_at(&object);
}

}  // namespace

// Nothing is given back while the mutex is held: whoever forks waits for it, perhaps with a lock of the application's
// that a deleter needs.
struct Source::Registry {
  std::mutex mutex;
  std::set<const Source*> alive;  // Those that this process has made.
  std::uint64_t next_fork = 0;
  std::vector<Fork> forks;  // Those not known to have ended, ascending.
  std::vector<Kept> kept;
  Pipe fork_under_way;
  std::vector<FileDescriptor> ancestors;  // The other ends of pipes that processes wait at for this one to end.

  bool waiting_is_over = false;
  bool has_waiting_thread = false;
  bool waiting_thread_gives_back = false;
  std::condition_variable given_back;

  [[nodiscard]] std::vector<int> ends() const {
    std::vector<int> numbers;
    for (const Fork& fork : forks) {
      if (fork.ended.number() != -1) {
        numbers.push_back(fork.ended.number());
      }
    }
    return numbers;
  }

  void forget_ended_forks() {
    if (alive.empty() && kept.empty()) {
      forks.clear();
    }
    if (forks.empty()) {
      return;
    }
    const std::vector<int> hung_up = System::real().wait_for_hangup(ends(), std::chrono::milliseconds(0)).value;
    std::erase_if(forks,
                  [&](const Fork& fork) { return std::ranges::find(hung_up, fork.ended.number()) != hung_up.end(); });
  }

  // What is no longer kept for anybody.
  Released take_unneeded() {
    forget_ended_forks();
    Released unneeded;
    std::erase_if(kept, [&](Kept& one) {
      if (std::ranges::any_of(forks, [&](const Fork& fork) { return one.is_for(fork); })) {
        return false;
      }
      unneeded.push_back(std::move(one.held));
      return true;
    });
    return unneeded;
  }

  [[nodiscard]] bool has_anything_to_wait_for() const {
    return std::ranges::any_of(kept, [&](const Kept& one) {
      return std::ranges::any_of(forks,
                                 [&](const Fork& fork) { return fork.ended.number() != -1 && one.is_for(fork); });
    });
  }

  void start_waiting_thread() {
    if (has_waiting_thread || waiting_is_over || !has_anything_to_wait_for()) {
      return;
    }
    has_waiting_thread = true;
    try {
      std::thread(&Registry::give_back_in_time, this).detach();
    } catch (const std::system_error&) {
      has_waiting_thread = false;  // Whoever makes or drops the next Source looks instead.
    }
  }

  void give_back_in_time() {
    System::real().block_signals();
    std::unique_lock lock(mutex);
    while (!waiting_is_over) {
      Released unneeded = take_unneeded();
      if (!unneeded.empty()) {
        waiting_thread_gives_back = true;
        lock.unlock();
        unneeded.clear();
        lock.lock();
        waiting_thread_gives_back = false;
        given_back.notify_all();
      } else if (has_anything_to_wait_for()) {
        const std::vector<int> pipes = ends();
        lock.unlock();
        const bool has_waited = System::real().wait_for_hangup(pipes, kLookAgain).ok();
        lock.lock();
        if (!has_waited) {
          break;
        }
      } else {
        break;
      }
    }
    has_waiting_thread = false;
  }

  void before_fork() {
    mutex.lock();
    forget_ended_forks();
    if (!alive.empty()) {
      fork_under_way = (*alive.begin())->system_->open_pipe().value;
      forks.reserve(forks.size() + 1);
      ancestors.reserve(ancestors.size() + 1);
    }
  }

  void after_fork_in_parent() {
    if (!alive.empty()) {
      forks.push_back({next_fork++, std::move(fork_under_way.read)});
      fork_under_way = {};
    }
    mutex.unlock();
  }

  void after_fork_in_child() {
    if (fork_under_way.write.number() != -1) {
      ancestors.push_back(std::move(fork_under_way.write));
    }
    fork_under_way = {};
    alive.clear();
    forks.clear();
    for (Kept& one : kept) {
      forget(one.held);
    }
    kept.clear();
    has_waiting_thread = false;
    waiting_thread_gives_back = false;
    forget(given_back);  // Threads of the parent may wait there.
    mutex.unlock();
  }
};

Source::Registry& Source::registry() noexcept {
  static Immortal<Registry> sources;
  return sources.get();
}

// Set up as the engine is loaded: at the first use, a fork could come between.
bool Source::watch_forks() noexcept {
  registry();
  System::real().at_fork([] { registry().before_fork(); }, [] { registry().after_fork_in_parent(); },
                         [] { registry().after_fork_in_child(); });
  return true;
}

const bool Source::forks_are_watched = watch_forks();

Source::Source(std::shared_ptr<const void> held, System& system)
    : held_(std::move(held)), system_(&system), process_(system.process_id()) {
  Registry& sources = registry();
  Released unneeded;  // Given back when the mutex is free again.
  const std::scoped_lock lock(sources.mutex);
  unneeded = sources.take_unneeded();
  first_fork_ = sources.next_fork;
  sources.alive.insert(this);
}

Source::~Source() {
  if (system_->process_id() != process_) {
    forget(held_);
    return;
  }
  Registry& sources = registry();
  Released unneeded;
  const std::scoped_lock lock(sources.mutex);
  sources.alive.erase(this);
  sources.kept.push_back({std::move(held_), first_fork_, sources.next_fork});
  unneeded = sources.take_unneeded();
  sources.start_waiting_thread();
}

void Source::stop_waiting() noexcept {
  Registry& sources = registry();
  std::unique_lock lock(sources.mutex);
  sources.waiting_is_over = true;
  sources.given_back.wait(lock, [&] { return !sources.waiting_thread_gives_back; });
}

}  // namespace zerocopy
