// Resetting a View of BERT-base's weights of which every nth page was written to, beside madvise() and a new View.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstddef>
#include <optional>
#include <span>

#include "store.h"
#include "zerocopy/view.h"

namespace zerocopy::benchmarks {
namespace {

void reset(benchmark::State& state) {
  View view = Store::of_bert().view();
  for (auto _ : state) {
    state.PauseTiming();
    write_pages(view.segment(0), static_cast<std::size_t>(state.range(0)));
    state.ResumeTiming();
    view.reset();
  }
}
BENCHMARK(reset)->ArgName("every")->Arg(100)->Arg(1)->Unit(benchmark::kMillisecond);

void bare_madvise_dontneed(benchmark::State& state) {
  const std::span<std::byte> bytes = Store::of_bert().map_private();
  for (auto _ : state) {
    state.PauseTiming();
    write_pages(bytes, static_cast<std::size_t>(state.range(0)));
    state.ResumeTiming();
    ::madvise(bytes.data(), bytes.size(), MADV_DONTNEED);
  }
  unmap(bytes);
}
BENCHMARK(bare_madvise_dontneed)->ArgName("every")->Arg(100)->Arg(1)->Unit(benchmark::kMillisecond);

void drop_and_make_anew(benchmark::State& state) {
  std::optional<View> view(Store::of_bert().view());
  for (auto _ : state) {
    state.PauseTiming();
    write_pages(view->segment(0), static_cast<std::size_t>(state.range(0)));
    state.ResumeTiming();
    view.reset();
    view.emplace(Store::of_bert().view());
  }
}
BENCHMARK(drop_and_make_anew)->ArgName("every")->Arg(100)->Arg(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace zerocopy::benchmarks
