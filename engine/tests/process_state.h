// What the operating system says that this process has.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "shared_file.h"
#include "system/page_range.h"
#include "system/system.h"

namespace zerocopy::testing {

inline std::size_t entries_of(const char* directory) {
  const std::filesystem::directory_iterator entries(directory);
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

inline std::size_t open_descriptors() { return entries_of("/proc/self/fd"); }

// How many threads there are once any sanitizer has started its own, which it does with the first of ours. The caller
// has joined no thread just before: one stays in the list for a moment after join() has returned.
inline std::size_t threads() {
  std::filesystem::path first("/proc/self/task");
  std::thread([&first] { first /= std::to_string(::gettid()); }).join();
  while (std::filesystem::exists(first)) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return entries_of("/proc/self/task");
}

// Whether that many threads are there, when those that have been joined are gone from the list as well.
inline bool threads_become(std::size_t count) {
  constexpr int tries = 5000;
  for (int nth = 0; nth < tries && entries_of("/proc/self/task") != count; ++nth) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return entries_of("/proc/self/task") == count;
}

// How many mappings this process has of a file.
inline std::size_t mappings_of(const FileId& file) {
  return static_cast<std::size_t>(
      std::ranges::count(parse_maps(System::real().read_file("/proc/self/maps").value), file, &Mapping::file));
}

// What this process's page tables take, in bytes, by the kernel's own count.
inline std::uint64_t page_table_bytes() {
  const std::string status = System::real().read_file("/proc/self/status").value;
  constexpr std::string_view name = "VmPTE:";
  constexpr std::uint64_t kibibyte = 1024;
  return std::stoull(status.substr(status.find(name) + name.size())) * kibibyte;
}

// How many pages of a range this process can read without a page fault.
inline std::size_t pages_in_page_table(std::span<const std::byte> range) {
  const Result<FileDescriptor> pagemap = System::real().open("/proc/self/pagemap");
  std::vector<std::uint64_t> entries(range.size() / page_size());
  const std::uint64_t first = address_of(range.data()) / page_size();
  System::real().read_at(pagemap.value.number(), std::as_writable_bytes(std::span(entries)), first * sizeof first);
  return static_cast<std::size_t>(
      std::ranges::count_if(entries, [](std::uint64_t entry) { return entry >> 63U != 0; }));
}

}  // namespace zerocopy::testing
