#include "zerocopy/view.h"

#include <atomic>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "system/page_range.h"
#include "system/source.h"
#include "system/system.h"
#include "watch/pagemap.h"
#include "watch/write_watch.h"
#include "window/plan.h"
#include "window/prefault.h"
#include "window/private_copies.h"
#include "window/region.h"
#include "zerocopy/error.h"

namespace zerocopy {

// Where the segments are does not change after construction; so what is const here may be called from any thread.
class View::Impl {
 public:
  Impl(std::span<const std::span<const std::byte>> segments, std::shared_ptr<const void> source, System& system)
      : source_(std::move(source), system), system_(&system), segments_(segments.size()) {
    Plan plan = make_plan(segments, system);
    for (PlannedRegion& planned : plan.regions) {
      map(std::move(planned), segments, plan);
    }
    copy(segments, plan.copied);
    reason_ = std::move(plan.reason);
    code_ = plan.code;
    for (const std::span<const std::byte> segment : segments) {
      nbytes_ += segment.size();
    }
    prefault_ = std::make_unique<Prefault>(mapped_bytes(), system);
  }

  [[nodiscard]] const std::vector<std::span<std::byte>>& segments() const noexcept { return segments_; }
  [[nodiscard]] std::uint64_t nbytes() const noexcept { return nbytes_; }
  [[nodiscard]] std::uint64_t copied_bytes() const noexcept { return copied_bytes_; }
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  [[nodiscard]] std::optional<Error::Code> code() const noexcept { return code_; }
  [[nodiscard]] Prefault& prefault() const noexcept { return *prefault_; }

  [[nodiscard]] std::vector<std::span<std::byte>> mapped_bytes() const {
    std::vector<std::span<std::byte>> ranges;
    ranges.reserve(regions_.size());
    for (const Region& region : regions_) {
      ranges.push_back(region.bytes());
    }
    return ranges;
  }

  bool watch_writes() {
    if (regions_.empty()) {
      return true;
    }
    const int here = system_->process_id();
    int watching = watching_process_.load(std::memory_order_acquire);
    if (watching == here || !watching_process_.compare_exchange_strong(watching, here, std::memory_order_acq_rel)) {
      wait_while_beginning();
      return watch() != nullptr;
    }
    attempts_.fetch_add(1, std::memory_order_acq_rel);
    try {
      std::unique_ptr<WriteWatch> begun = own_bytes() == 0 ? WriteWatch::begin(mapped_bytes(), *system_) : nullptr;
      if (begun != nullptr) {
        watch_.store(watches_.emplace_back(std::move(begun)).get(), std::memory_order_release);
        return true;
      }
    } catch (...) {
      watching_process_.store(0, std::memory_order_release);
      throw;
    }
    watching_process_.store(0, std::memory_order_release);
    return false;
  }

  [[nodiscard]] std::uint64_t diverged_bytes() const {
    while (true) {
      const unsigned attempts = attempts_.load(std::memory_order_acquire);
      wait_while_beginning();
      if (const WriteWatch* const watching = watch(); watching != nullptr) {
        return watching->written_bytes();
      }
      const std::uint64_t own = own_bytes();
      if (attempts == attempts_.load(std::memory_order_acquire)) {
        return own;
      }
      // A page that the kernel is told to watch looks like an own one until the watch is there: once more.
    }
  }

  [[nodiscard]] ViewStats stats() const {
    ViewStats stats{.nbytes = nbytes_, .copied_bytes = copied_bytes_, .private_copy_reason = reason_};
    if (regions_.empty()) {
      return stats;
    }
    const Pagemap pagemap(*system_);
    for (const Region& region : regions_) {
      const std::uintptr_t begin = address_of(region.bytes().data());
      const PageUse use = pagemap.use(begin, begin + region.bytes().size());
      stats.shared_bytes += region.bytes().size() - use.own_bytes;
      stats.diverged_bytes += use.own_bytes;
      stats.resident_bytes += use.resident_bytes;
      stats.page_table_bytes += use.page_table_bytes;
    }
    return stats;
  }

  void reset() {
    if (WriteWatch* const watching = watch(); watching != nullptr) {
      watching->discard_written();
    } else {
      discard_all();
    }
    if (copies_) {
      copies_->copy_again();
    }
  }

 private:
  // Null as well in a forked child, for which the kernel notes nothing.
  [[nodiscard]] WriteWatch* watch() const {
    WriteWatch* const watch = watch_.load(std::memory_order_acquire);
    return watch != nullptr && watch->applies() ? watch : nullptr;
  }

  // Until a thread of this process that begins to watch, if there is one, has done so or failed.
  void wait_while_beginning() const {
    while (watching_process_.load(std::memory_order_acquire) == system_->process_id() && watch() == nullptr) {
      std::this_thread::yield();
    }
  }

  [[nodiscard]] std::uint64_t own_bytes() const {
    if (regions_.empty()) {
      return 0;
    }
    Pagemap pagemap(*system_);
    std::uint64_t own = 0;
    for (const Region& region : regions_) {
      own += pagemap.own_bytes(region.bytes());
    }
    return own;
  }

  void discard_all() {
    for (const Region& region : regions_) {
      if (const int error = system_->discard(region.bytes()); error != 0) {
        throw Error(
            Error::Code::system_call,
            std::to_string(region.bytes().size()) + " bytes cannot be reset: " + std::generic_category().message(error),
            error);
      }
    }
  }

  // A region that the kernel won't map is added to what the plan has to copy.
  void map(PlannedRegion planned, std::span<const std::span<const std::byte>> segments, Plan& plan) {
    try {
      const Region& region = regions_.emplace_back(std::move(planned.parts), *system_);
      for (const std::size_t index : planned.segments) {
        const std::size_t offset = address_of(segments[index].data()) - planned.source.begin;
        segments_[index] = region.bytes().subspan(offset, segments[index].size());
      }
    } catch (const Error& error) {
      plan.copied.insert(plan.copied.end(), planned.segments.begin(), planned.segments.end());
      if (plan.reason.empty()) {
        plan.reason = error.what();
        plan.code = error.code();
      }
    }
  }

  void copy(std::span<const std::span<const std::byte>> segments, const std::vector<std::size_t>& copied) {
    if (copied.empty()) {
      return;
    }
    std::vector<std::span<const std::byte>> sources;
    sources.reserve(copied.size());
    for (const std::size_t index : copied) {
      sources.push_back(segments[index]);
      copied_bytes_ += segments[index].size();
    }
    copies_ = std::make_unique<PrivateCopies>(sources);
    for (std::size_t nth = 0; nth < copied.size(); ++nth) {
      segments_[copied[nth]] = copies_->at(nth);
    }
  }

  // Destroyed from the last to the first: the prefaulting threads, the bytes, and only then what the bytes come from.
  Source source_;
  System* system_;
  std::vector<Region> regions_;
  std::unique_ptr<PrivateCopies> copies_;
  std::vector<std::span<std::byte>> segments_;
  std::uint64_t nbytes_ = 0;
  std::uint64_t copied_bytes_ = 0;
  std::string reason_;
  std::optional<Error::Code> code_;
  // No mutex: a child forked while another thread held it would wait for ever. Who puts this process's number here may
  // begin to watch; a parent's watch stays until the View goes, for threads that are just looking at it.
  std::atomic<int> watching_process_{0};
  std::atomic<unsigned> attempts_{0};  // To watch; counted when they begin.
  std::vector<std::unique_ptr<WriteWatch>> watches_;
  std::atomic<WriteWatch*> watch_{nullptr};
  std::unique_ptr<Prefault> prefault_;
};

View::View(std::span<const std::span<const std::byte>> segments, std::shared_ptr<const void> source)
    : View(segments, std::move(source), System::real()) {}

View::View(std::span<const std::span<const std::byte>> segments, std::shared_ptr<const void> source, System& system)
    : impl_(std::make_unique<Impl>(segments, std::move(source), system)) {}

View::View(View&& other) noexcept = default;
View& View::operator=(View&& other) noexcept = default;
View::~View() = default;

std::size_t View::size() const noexcept { return impl_->segments().size(); }

std::span<std::byte> View::segment(std::size_t index) const {
  if (index >= size()) {
    throw Error(Error::Code::no_such_segment,
                "there is no segment " + std::to_string(index) + " among " + std::to_string(size()));
  }
  return impl_->segments()[index];
}

std::uint64_t View::nbytes() const noexcept { return impl_->nbytes(); }

std::uint64_t View::copied_bytes() const noexcept { return impl_->copied_bytes(); }

const std::string& View::private_copy_reason() const noexcept { return impl_->reason(); }

std::optional<Error::Code> View::private_copy_code() const noexcept { return impl_->code(); }

void View::prefault(unsigned threads) { impl_->prefault().start(threads); }

void View::wait_prefault() const noexcept { impl_->prefault().wait(); }

std::uint64_t View::diverged_bytes() const { return impl_->diverged_bytes(); }

ViewStats View::stats() const { return impl_->stats(); }

std::vector<std::span<const std::byte>> View::mapped_pages() const {
  const std::vector<std::span<std::byte>> mapped = impl_->mapped_bytes();
  return {mapped.begin(), mapped.end()};
}

bool View::watch_writes() { return impl_->watch_writes(); }

void View::reset() { impl_->reset(); }

}  // namespace zerocopy
