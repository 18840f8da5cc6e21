#include "image/layout.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

#include "image/format.h"

namespace zerocopy {
namespace {

// Blocks that overlap.
struct Overlapping {
  const std::byte* first = nullptr;
  const std::byte* end = nullptr;
  std::vector<std::uint32_t> blocks;  // The smallest number first.
};

bool is_large(const Overlapping& run) { return std::cmp_greater(run.end - run.first, format::kLargeRun); }

// The roots that use one of the blocks.
std::vector<std::uint32_t> users(const Overlapping& run, std::span<const Layout::Source> sources) {
  std::vector<std::uint32_t> together = sources[run.blocks.front()].roots;
  for (const std::uint32_t number : std::span(run.blocks).subspan(1)) {
    const std::vector<std::uint32_t>& more = sources[number].roots;
    std::vector<std::uint32_t> both;
    std::ranges::set_union(together, more, std::back_inserter(both));
    together = std::move(both);
  }
  return together;
}

// Whether a run begins where the one before it ends, and lies as well in a run of both as in its own.
bool follows(const Overlapping& run, const Overlapping& before, std::span<const Layout::Source> sources) {
  return run.first == before.end && static_cast<std::uint64_t>(before.end - before.first) % format::kAlignment == 0 &&
         users(run, sources) == users(before, sources);
}

// Runs that follow each other, given by address, become one.
std::vector<Overlapping> joined(std::vector<Overlapping> runs, std::span<const Layout::Source> sources) {
  std::vector<Overlapping> together;
  for (Overlapping& run : runs) {
    if (together.empty() || !follows(run, together.back(), sources)) {
      together.push_back(std::move(run));
      continue;
    }
    Overlapping& last = together.back();
    last.end = run.end;
    last.blocks.insert(last.blocks.end(), run.blocks.begin(), run.blocks.end());
    std::iter_swap(last.blocks.begin(), std::ranges::min_element(last.blocks));
  }
  return together;
}

// In the order of their first blocks.
std::vector<Overlapping> overlapping(std::span<const Layout::Source> sources, bool join) {
  std::vector<std::uint32_t> by_address;
  for (std::uint32_t number = 0; number < sources.size(); ++number) {
    if (!sources[number].bytes.empty()) {
      by_address.push_back(number);
    }
  }
  const std::less<> before;  // An order of all pointers, which `<` need not be.
  std::ranges::stable_sort(by_address, before, [&](std::uint32_t number) { return sources[number].bytes.data(); });
  std::vector<Overlapping> runs;
  for (const std::uint32_t number : by_address) {
    const std::span<const std::byte> bytes = sources[number].bytes;
    const std::byte* const end = bytes.data() + bytes.size();
    if (runs.empty() || !before(bytes.data(), runs.back().end)) {
      runs.push_back({bytes.data(), end, {number}});
      continue;
    }
    Overlapping& run = runs.back();
    run.end = std::max(run.end, end, before);
    run.blocks.push_back(number);
    if (number < run.blocks.front()) {
      std::swap(run.blocks.front(), run.blocks.back());
    }
  }
  if (join) {
    runs = joined(std::move(runs), sources);
  }
  std::ranges::sort(runs, {}, [](const Overlapping& run) { return run.blocks.front(); });
  return runs;
}

}  // namespace

Layout::Layout(std::span<const Source> blocks, Form form, bool join) : places_(blocks.size()) {
  const std::vector<Overlapping> runs = overlapping(blocks, join);
  // What all runs of a segment have in common: their roots, and the number of the run that is one by itself.
  using Key = std::pair<std::vector<std::uint32_t>, std::optional<std::size_t>>;
  std::map<Key, std::uint32_t> segment_of;
  std::vector<std::uint32_t> segments(runs.size());  // Of each run.
  for (std::size_t nth = 0; nth < runs.size(); ++nth) {
    const bool is_alone = form == Form::parts && is_large(runs[nth]);
    const auto [found, is_new] =
        segment_of.try_emplace({users(runs[nth], blocks), is_alone ? std::optional(nth) : std::nullopt},
                               static_cast<std::uint32_t>(segments_.size()));
    if (is_new) {
      segments_.push_back({0, {}, found->first.first});
    }
    segments[nth] = found->second;
  }
  for (const bool packed : {false, true}) {
    for (std::size_t nth = 0; nth < runs.size(); ++nth) {
      const Overlapping& run = runs[nth];
      if (is_large(run) == packed) {
        continue;
      }
      const std::span bytes(run.first, run.end);
      Segment& segment = segments_[segments[nth]];
      const std::uint64_t offset = aligned(segment.nbytes, packed ? format::kAlignment : format::kPage);
      segment.runs.push_back({offset, bytes, run.blocks.front()});
      segment.nbytes = offset + bytes.size();
      for (const std::uint32_t number : run.blocks) {
        places_[number] = {segments[nth], offset + static_cast<std::uint64_t>(blocks[number].bytes.data() - run.first)};
      }
    }
  }
  if (form == Form::file) {
    for (Segment& segment : segments_) {
      segment.nbytes = aligned(segment.nbytes, format::kPage);
    }
  }
}

}  // namespace zerocopy
