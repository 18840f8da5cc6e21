// Page faults taken ahead of time, by threads in the background.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

namespace zerocopy {

class System;

// Puts the pages of some ranges into this process's page table, so that their first readers need not stop for a fault
// each. Only a hint: where it cannot be done (the file was cut short) the threads end and whoever reads the bytes
// meets the reason. Nothing is written, so no page becomes this process's own.
//
// start() and wait() may be called from any thread, also at once. The destructor cancels, and returns when the threads
// are gone: at most a few milliseconds. The ranges must stay mapped until then, and `system` must outlive this.
//
// After fork the child has the object but not the threads: there wait() returns at once, start() starts threads of the
// child's own, and the destructor waits for those only.
class Prefault {
 public:
  static constexpr unsigned max_threads = 64;

  // Starts nothing.
  Prefault(const std::vector<std::span<std::byte>>& ranges, System& system);
  Prefault(Prefault&&) = delete;
  Prefault& operator=(Prefault&&) = delete;
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;
  ~Prefault();

  // Goes through all ranges with up to `threads` threads, and returns at once; while they are running already, does
  // nothing. Throws Error: bad_thread_count, or system_call when not one thread could be started.
  void start(unsigned threads);

  // Returns when no thread of this object is at work any more; at once when none was started.
  void wait() const noexcept;

 private:
  enum class Phase : std::uint8_t { idle, starting, running, finished };

  // Phase and process in one word, so that both change in one step and a child after fork can tell that what it has
  // inherited is its parent's.
  [[nodiscard]] std::uint64_t here(Phase phase) const noexcept;
  [[nodiscard]] bool under_way(std::uint64_t state) const noexcept;

  void run() noexcept;
  void retire_one() noexcept;
  void clear_threads(std::uint64_t state) noexcept;

  System* system_;
  std::vector<std::span<const std::byte>> chunks_;
  std::atomic<std::uint64_t> state_{0};
  std::atomic<std::size_t> next_chunk_{0};
  std::atomic<unsigned> at_work_{0};
  std::atomic<bool> cancelled_{false};
  std::array<std::thread, max_threads> threads_;
};

}  // namespace zerocopy
