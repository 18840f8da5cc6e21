// Taking the page faults of 1 GiB by threads, beside madvise() and beside taking them one by one.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstddef>
#include <span>

#include "store.h"
#include "zerocopy/view.h"

namespace zerocopy::benchmarks {
namespace {

const Store& gibibyte() {
  static const Store store(1024 * kMebibyte);
  return store;
}

void prefault(benchmark::State& state) {
  for (auto _ : state) {
    state.PauseTiming();
    {
      View view = gibibyte().view();
      state.ResumeTiming();
      view.prefault(static_cast<unsigned>(state.range(0)));
      view.wait_prefault();
      state.PauseTiming();
    }
    state.ResumeTiming();
  }
}
BENCHMARK(prefault)->ArgName("threads")->RangeMultiplier(2)->Range(1, 8)->Unit(benchmark::kMillisecond)->UseRealTime();

void bare_madvise(benchmark::State& state) {
  constexpr int populate_read = 22;  // MADV_POPULATE_READ
  for (auto _ : state) {
    state.PauseTiming();
    const std::span<std::byte> bytes = gibibyte().map_private();
    state.ResumeTiming();
    if (::madvise(bytes.data(), bytes.size(), populate_read) != 0) {
      state.SkipWithError("this kernel has no MADV_POPULATE_READ");
    }
    state.PauseTiming();
    unmap(bytes);
    state.ResumeTiming();
  }
}
BENCHMARK(bare_madvise)->Unit(benchmark::kMillisecond)->UseRealTime();

void bare_page_faults(benchmark::State& state) {
  for (auto _ : state) {
    state.PauseTiming();
    const std::span<std::byte> bytes = gibibyte().map_private();
    state.ResumeTiming();
    touch(bytes);
    state.PauseTiming();
    unmap(bytes);
    state.ResumeTiming();
  }
}
BENCHMARK(bare_page_faults)->Unit(benchmark::kMillisecond)->UseRealTime();

// What there is to win: the same reads when all pages are in the page table.
void second_pass(benchmark::State& state) {
  View view = gibibyte().view();
  view.prefault();
  view.wait_prefault();
  for (auto _ : state) {
    touch(view.segment(0));
  }
}
BENCHMARK(second_pass)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace zerocopy::benchmarks
