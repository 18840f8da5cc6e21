#include "watch/pagemap.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "system/page_range.h"
#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

// Documentation/admin-guide/mm/pagemap.rst of the kernel: an entry of 64 bits for each page.
using Entry = std::uint64_t;
constexpr Entry kWatchedAndUnwritten = Entry{1} << 57U;
constexpr Entry kFilePage = Entry{1} << 61U;
constexpr Entry kSwapped = Entry{1} << 62U;
constexpr Entry kPresent = Entry{1} << 63U;

[[noreturn]] void fail(const std::string& path, int error) {
  throw Error(Error::Code::system_call, path + " cannot be read: " + std::generic_category().message(error), error);
}

bool is_own(Entry entry) { return (entry & (kPresent | kSwapped)) != 0 && (entry & kFilePage) == 0; }

}  // namespace

Pagemap::Pagemap(System& system) : Pagemap("/proc/self/pagemap", system) {}

Pagemap::Pagemap(int process, System& system) : Pagemap("/proc/" + std::to_string(process) + "/pagemap", system) {}

Pagemap::Pagemap(std::string path, System& system) : system_(&system), path_(std::move(path)) {
  Result<FileDescriptor> opened = system.open(path_);
  if (!opened.ok()) {
    fail(path_, opened.error);
  }
  pagemap_ = std::move(opened.value);
}

std::uint64_t Pagemap::own_bytes(std::span<const std::byte> range) {
  const auto [begin, end] = PageRange::around(range, system_->page_size());
  std::uint64_t own = 0;
  for (std::uintptr_t at = begin; at < end;) {
    const Result<PageScan> scan = system_->scan_own_pages(pagemap_.number(), at, end);
    // What a kernel is not known to say is asked for in the other way.
    if (!scan.ok() || scan.value.walked_to <= at || scan.value.walked_to > end ||
        scan.value.own_bytes > scan.value.walked_to - at) {
      return own + read_entries(at, end);
    }
    own += scan.value.own_bytes;
    at = scan.value.walked_to;
  }
  return own;
}

PageUse Pagemap::use(std::uintptr_t begin, std::uintptr_t end) const {
  const std::size_t page_size = system_->page_size();
  const std::size_t pages_in_table = page_size / sizeof(Entry);
  PageUse use;
  std::uintptr_t counted_table = 0;  // The lowest addresses of all are nobody's.
  for_each_entry(begin / page_size * page_size, (end + page_size - 1) / page_size * page_size,
                 [&](std::uintptr_t page, Entry entry) {
                   const bool is_present = (entry & kPresent) != 0;
                   use.resident_bytes += is_present ? page_size : 0;
                   use.own_bytes += is_own(entry) && (entry & kWatchedAndUnwritten) == 0 ? page_size : 0;
                   if (is_present && page / pages_in_table != counted_table) {
                     counted_table = page / pages_in_table;
                     use.page_table_bytes += page_size;
                   }
                 });
  return use;
}

std::uint64_t Pagemap::read_entries(std::uintptr_t begin, std::uintptr_t end) const {
  std::uint64_t own_pages = 0;
  for_each_entry(begin, end, [&](std::uintptr_t /*page*/, Entry entry) { own_pages += is_own(entry) ? 1U : 0U; });
  return own_pages * system_->page_size();
}

template <typename See>
void Pagemap::for_each_entry(std::uintptr_t begin, std::uintptr_t end, See see) const {
  std::array<Entry, 4096> entries{};
  const std::size_t page_size = system_->page_size();
  for (std::uintptr_t page = begin / page_size; page < end / page_size;) {
    const std::size_t wanted = std::min(end / page_size - page, entries.size());
    const Result<std::size_t> read = system_->read_at(
        pagemap_.number(), std::as_writable_bytes(std::span(entries).first(wanted)), page * sizeof(Entry));
    const std::size_t count = std::min(read.value / sizeof(Entry), wanted);
    if (!read.ok() || count == 0) {
      fail(path_, read.ok() ? EIO : read.error);
    }
    for (const Entry entry : std::span(entries).first(count)) {
      see(page++, entry);
    }
  }
}

PageUse page_use(int process, std::span<const std::pair<std::uintptr_t, std::uintptr_t>> ranges) {
  return page_use(process, ranges, System::real());
}

PageUse page_use(int process, std::span<const std::pair<std::uintptr_t, std::uintptr_t>> ranges, System& system) {
  const Pagemap pagemap(process, system);
  PageUse all;
  for (const auto& [begin, end] : ranges) {
    const PageUse use = pagemap.use(begin, end);
    all.resident_bytes += use.resident_bytes;
    all.own_bytes += use.own_bytes;
    all.page_table_bytes += use.page_table_bytes;
  }
  return all;
}

}  // namespace zerocopy
