// The first write to each page of 64 MiB: in a View, in a bare private mapping, and in memory of one's own. Time is per
// page.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstddef>
#include <span>

#include "store.h"
#include "zerocopy/view.h"

namespace zerocopy::benchmarks {
namespace {

constexpr std::size_t kLength = 64 * kMebibyte;
constexpr std::size_t kPages = kLength / kPage;

const Store& store() {
  static const Store store(kLength);
  return store;
}

void report_per_page(benchmark::State& state) {
  state.counters["per_page"] =
      benchmark::Counter(kPages, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void first_write(benchmark::State& state) {
  View view = store().view();
  const bool prefaulted = state.range(0) != 0;
  for (auto _ : state) {
    state.PauseTiming();
    view.reset();
    if (prefaulted) {
      view.prefault();
      view.wait_prefault();
    }
    state.ResumeTiming();
    write_pages(view.segment(0), 1);
  }
  report_per_page(state);
}
BENCHMARK(first_write)->ArgName("prefaulted")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

void first_write_to_a_bare_private_mapping(benchmark::State& state) {
  for (auto _ : state) {
    state.PauseTiming();
    const std::span<std::byte> bytes = store().map_private();
    state.ResumeTiming();
    write_pages(bytes, 1);
    state.PauseTiming();
    unmap(bytes);
    state.ResumeTiming();
  }
  report_per_page(state);
}
BENCHMARK(first_write_to_a_bare_private_mapping)->Unit(benchmark::kMillisecond);

void first_write_to_anonymous_memory(benchmark::State& state) {
  for (auto _ : state) {
    state.PauseTiming();
    void* const address = ::mmap(nullptr, kLength, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const std::span<std::byte> bytes(static_cast<std::byte*>(address), kLength);
    ::madvise(address, kLength, MADV_NOHUGEPAGE);  // Page by page, as a file's.
    state.ResumeTiming();
    write_pages(bytes, 1);
    state.PauseTiming();
    unmap(bytes);
    state.ResumeTiming();
  }
  report_per_page(state);
}
BENCHMARK(first_write_to_anonymous_memory)->Unit(benchmark::kMillisecond);

void second_write(benchmark::State& state) {
  const View view = store().view();
  write_pages(view.segment(0), 1);
  for (auto _ : state) {
    write_pages(view.segment(0), 1);
  }
  report_per_page(state);
}
BENCHMARK(second_write)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace zerocopy::benchmarks
