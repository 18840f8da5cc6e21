#include "watch/pagemap.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <system_error>

#include "system/page_range.h"
#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

// Documentation/admin-guide/mm/pagemap.rst of the kernel: an entry of 64 bits for each page.
using Entry = std::uint64_t;
constexpr Entry kFilePage = Entry{1} << 61U;
constexpr Entry kSwapped = Entry{1} << 62U;
constexpr Entry kPresent = Entry{1} << 63U;

[[noreturn]] void fail(int error) {
  throw Error(Error::Code::system_call, "/proc/self/pagemap cannot be read: " + std::generic_category().message(error),
              error);
}

}  // namespace

Pagemap::Pagemap(System& system) : system_(&system) {
  Result<FileDescriptor> opened = system.open("/proc/self/pagemap");
  if (!opened.ok()) {
    fail(opened.error);
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

std::uint64_t Pagemap::read_entries(std::uintptr_t begin, std::uintptr_t end) const {
  std::array<Entry, 4096> entries{};
  const std::size_t page_size = system_->page_size();
  std::uint64_t own_pages = 0;
  for (std::uintptr_t page = begin / page_size; page < end / page_size;) {
    const std::size_t wanted = std::min(end / page_size - page, entries.size());
    const Result<std::size_t> read = system_->read_at(
        pagemap_.number(), std::as_writable_bytes(std::span(entries).first(wanted)), page * sizeof(Entry));
    const std::size_t count = std::min(read.value / sizeof(Entry), wanted);
    if (!read.ok() || count == 0) {
      fail(read.ok() ? EIO : read.error);
    }
    own_pages += static_cast<std::uint64_t>(std::ranges::count_if(std::span(entries).first(count), [](Entry entry) {
      return (entry & (kPresent | kSwapped)) != 0 && (entry & kFilePage) == 0;
    }));
    page += count;
  }
  return own_pages * page_size;
}

}  // namespace zerocopy
