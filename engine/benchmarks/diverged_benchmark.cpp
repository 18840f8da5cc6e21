// diverged_bytes() of BERT-base's weights with all pages in the page table, beside reading /proc/self/pagemap and
// beside PAGEMAP_SCAN alone.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "store.h"
#include "zerocopy/view.h"

namespace zerocopy::benchmarks {
namespace {

// A View of which every nth page has been written to; none for 0.
View written(std::size_t every) {
  View view = Store::of_bert().view();
  view.prefault();
  view.wait_prefault();
  if (every != 0) {
    write_pages(view.segment(0), every);
  }
  return view;
}

void diverged_bytes(benchmark::State& state) {
  const View view = written(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    benchmark::DoNotOptimize(view.diverged_bytes());
  }
}
BENCHMARK(diverged_bytes)->ArgName("every")->Arg(0)->Arg(100)->Arg(2)->Unit(benchmark::kMillisecond);

// include/uapi/linux/fs.h, of Linux 6.7 and later.
struct Scan {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

void bare_pagemap_scan(benchmark::State& state) {
  const View view = written(static_cast<std::size_t>(state.range(0)));
  const std::span<std::byte> bytes = view.segment(0);
  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  std::array<std::array<std::uint64_t, 3>, 256> regions{};
  for (auto _ : state) {
    Scan scan{};
    scan.size = sizeof scan;
    scan.walk_end = std::bit_cast<std::uintptr_t>(bytes.data());
    scan.end = scan.walk_end + (bytes.size() + kPage - 1) / kPage * kPage;
    scan.vec = std::bit_cast<std::uintptr_t>(regions.data());
    scan.vec_len = regions.size();
    scan.category_inverted = scan.category_mask = scan.return_mask = 4;  // Not a file's.
    scan.category_anyof_mask = 24;                                       // Present or swapped.
    while (scan.walk_end < scan.end) {
      scan.start = scan.walk_end;
      if (::ioctl(pagemap, _IOWR('f', 16, Scan), &scan) < 0) {
        state.SkipWithError("this kernel has no PAGEMAP_SCAN");
        break;
      }
    }
  }
  ::close(pagemap);
}
BENCHMARK(bare_pagemap_scan)->ArgName("every")->Arg(0)->Arg(100)->Arg(2)->Unit(benchmark::kMillisecond);

void bare_pagemap_read(benchmark::State& state) {
  const View view = written(static_cast<std::size_t>(state.range(0)));
  const std::span<std::byte> bytes = view.segment(0);
  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  std::vector<std::uint64_t> entries(bytes.size() / kPage);
  const auto offset = static_cast<off_t>(std::bit_cast<std::uintptr_t>(bytes.data()) / kPage * sizeof entries[0]);
  for (auto _ : state) {
    if (::pread(pagemap, entries.data(), entries.size() * sizeof entries[0], offset) <= 0) {
      state.SkipWithError("/proc/self/pagemap cannot be read");
    }
  }
  ::close(pagemap);
}
BENCHMARK(bare_pagemap_read)->ArgName("every")->Arg(0)->Arg(2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace zerocopy::benchmarks
