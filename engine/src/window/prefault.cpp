#include "window/prefault.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <system_error>

#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

// About a fifth of a millisecond of work: how long the destructor may wait. Smaller ones take longer together, as each
// is looked through afterwards for pages that were left out.
constexpr std::size_t kChunkBytes = std::size_t{2} << 20U;
constexpr unsigned kPhaseBits = 2;

std::vector<std::span<const std::byte>> cut(const std::vector<std::span<std::byte>>& ranges) {
  std::vector<std::span<const std::byte>> chunks;
  for (std::span<const std::byte> rest : ranges) {
    while (!rest.empty()) {
      const std::size_t length = std::min(rest.size(), kChunkBytes);
      chunks.push_back(rest.first(length));
      rest = rest.subspan(length);
    }
  }
  return chunks;
}

}  // namespace

Prefault::Prefault(const std::vector<std::span<std::byte>>& ranges, System& system)
    : system_(&system), chunks_(cut(ranges)) {}

Prefault::~Prefault() {
  cancelled_.store(true, std::memory_order_relaxed);
  clear_threads(state_.load(std::memory_order_acquire));
}

void Prefault::start(unsigned threads) {
  if (threads == 0 || threads > max_threads) {
    throw Error(Error::Code::bad_thread_count,
                "prefault takes 1 to " + std::to_string(max_threads) + " threads, not " + std::to_string(threads));
  }
  if (chunks_.empty()) {
    return;
  }
  std::uint64_t state = state_.load(std::memory_order_acquire);
  do {  // NOLINT(cppcoreguidelines-avoid-do-while): how a compare-and-exchange is written.
    if (under_way(state)) {
      return;
    }
  } while (!state_.compare_exchange_weak(state, here(Phase::starting), std::memory_order_acq_rel));
  clear_threads(state);

  next_chunk_.store(0, std::memory_order_relaxed);
  at_work_.store(1,
                 std::memory_order_relaxed);  // This thread, so that the others cannot finish before all are started.
  int error = 0;
  std::size_t started = 0;
  while (started < std::min<std::size_t>(threads, chunks_.size()) && error == 0) {
    at_work_.fetch_add(1, std::memory_order_relaxed);
    try {
      threads_.at(started) = std::thread(&Prefault::run, this);
      ++started;
    } catch (const std::system_error& refused) {
      at_work_.fetch_sub(1, std::memory_order_relaxed);
      error = refused.code().value();
    }
  }
  state_.store(here(Phase::running), std::memory_order_release);
  retire_one();
  if (started == 0) {
    throw Error(Error::Code::system_call,
                "no thread could be started to prefault with: " + std::generic_category().message(error), error);
  }
}

void Prefault::wait() const noexcept {
  for (std::uint64_t state = state_.load(std::memory_order_acquire); under_way(state);
       state = state_.load(std::memory_order_acquire)) {
    state_.wait(state, std::memory_order_acquire);
  }
}

std::uint64_t Prefault::here(Phase phase) const noexcept {
  return (static_cast<std::uint64_t>(system_->process_id()) << kPhaseBits) | static_cast<std::uint64_t>(phase);
}

bool Prefault::under_way(std::uint64_t state) const noexcept {
  return state == here(Phase::starting) || state == here(Phase::running);
}

void Prefault::run() noexcept {
  system_->block_signals();
  while (!cancelled_.load(std::memory_order_relaxed)) {
    const std::size_t index = next_chunk_.fetch_add(1, std::memory_order_relaxed);
    if (index >= chunks_.size()) {
      break;
    }
    const int error = system_->populate(chunks_[index]);
    if (error == EINVAL) {
      system_->touch(chunks_[index]);  // The kernel has no MADV_POPULATE_READ.
    } else if (error != 0 && error != EAGAIN) {
      break;
    }
  }
  retire_one();
}

void Prefault::retire_one() noexcept {
  if (at_work_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    state_.store(here(Phase::finished), std::memory_order_release);
    state_.notify_all();
  }
}

// Leaves threads_ empty. `state` is the one that they were started in.
void Prefault::clear_threads(std::uint64_t state) noexcept {
  const bool ours = state >> kPhaseBits == here(Phase::idle) >> kPhaseBits;
  for (std::thread& thread : threads_) {
    if (!ours) {
      // A parent's thread, which doesn't exist here: neither to be joined nor destroyed. The handle is forgotten.
      std::construct_at(&thread);
    } else if (thread.joinable()) {
      thread.join();
    }
  }
}

}  // namespace zerocopy
