// Making and dropping a View, beside mmap() and munmap().
#include <benchmark/benchmark.h>

#include <cstddef>
#include <span>
#include <vector>

#include "store.h"
#include "zerocopy/view.h"

namespace zerocopy::benchmarks {
namespace {

void view(benchmark::State& state) {
  const Store& store = Store::of_bert();
  const auto count = static_cast<std::size_t>(state.range(0));
  const std::size_t length = store.bytes().size() / count;
  std::vector<std::span<const std::byte>> segments;
  segments.reserve(count);
  for (std::size_t nth = 0; nth < count; ++nth) {
    segments.emplace_back(store.bytes().subspan(nth * length, length));
  }
  for (auto _ : state) {
    const View view(segments, nullptr);
    benchmark::DoNotOptimize(view.segment(0).data());
  }
}
BENCHMARK(view)->ArgName("segments")->Arg(1)->Arg(200)->Unit(benchmark::kMicrosecond);

// The file need not be searched for while another View of it lives.
void view_beside_another(benchmark::State& state) {
  const Store& store = Store::of_bert();
  const View other = store.view();
  for (auto _ : state) {
    const View view = store.view();
    benchmark::DoNotOptimize(view.segment(0).data());
  }
}
BENCHMARK(view_beside_another)->Unit(benchmark::kMicrosecond);

void bare_mmap(benchmark::State& state) {
  const Store& store = Store::of_bert();
  for (auto _ : state) {
    const std::span<std::byte> bytes = store.map_private();
    benchmark::DoNotOptimize(bytes.data());
    unmap(bytes);
  }
}
BENCHMARK(bare_mmap)->Unit(benchmark::kMicrosecond);

// What a View spares its worker.
void copy(benchmark::State& state) {
  const Store& store = Store::of_bert();
  for (auto _ : state) {
    const std::vector<std::byte> bytes(store.bytes().begin(), store.bytes().end());
    benchmark::DoNotOptimize(bytes.data());
  }
}
BENCHMARK(copy)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace zerocopy::benchmarks
