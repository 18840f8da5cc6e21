#include "watch/write_watch.h"

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "system/page_range.h"
#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

[[noreturn]] void fail(const char* what, int error) {
  throw Error(Error::Code::system_call, std::string(what) + ": " + std::generic_category().message(error), error);
}

}  // namespace

WriteWatch::WriteWatch(FileDescriptor watch, std::vector<std::span<std::byte>> ranges, System& system)
    : watch_(std::move(watch)), ranges_(std::move(ranges)), system_(&system), process_(system.process_id()) {}

std::unique_ptr<WriteWatch> WriteWatch::begin(std::vector<std::span<std::byte>> ranges, System& system) {
  Result<FileDescriptor> watch = system.open_write_watch();
  if (!watch.ok()) {
    return nullptr;
  }
  for (const std::span<std::byte> range : ranges) {
    if (system.watch_writes(watch.value.number(), range) != 0) {
      return nullptr;
    }
  }
  std::unique_ptr<WriteWatch> made(new WriteWatch(std::move(watch.value), std::move(ranges), system));
  // A kernel that watches but cannot tell is found out here.
  try {
    return made->written_bytes() == 0 ? std::move(made) : nullptr;
  } catch (const Error&) {
    return nullptr;
  }
}

bool WriteWatch::applies() const noexcept { return system_->process_id() == process_; }

std::uint64_t WriteWatch::written_bytes() const {
  std::uint64_t bytes = 0;
  for (const std::span<std::byte> range : written()) {
    bytes += range.size();
  }
  return bytes;
}

void WriteWatch::discard_written() {
  for (const std::span<std::byte> range : written()) {
    if (const int error = system_->discard(range); error != 0) {
      fail("pages written to cannot be given back", error);
    }
    if (const int error = system_->watch_writes(watch_.number(), range); error != 0) {
      fail("pages given back cannot be watched again", error);
    }
  }
}

std::vector<std::span<std::byte>> WriteWatch::written() const {
  const Result<FileDescriptor> pagemap = system_->open("/proc/self/pagemap");
  if (!pagemap.ok()) {
    fail("/proc/self/pagemap cannot be read", pagemap.error);
  }
  std::vector<std::span<std::byte>> found;
  for (const std::span<std::byte> range : ranges_) {
    const std::uintptr_t begin = address_of(range.data());
    const std::uintptr_t end = begin + range.size();
    for (std::uintptr_t at = begin; at < end;) {
      const Result<WrittenPages> scan = system_->scan_written_pages(pagemap.value.number(), at, end);
      if (!scan.ok() || scan.value.walked_to <= at || scan.value.walked_to > end) {
        fail("the pages written to cannot be told", scan.ok() ? EIO : scan.error);
      }
      std::uintptr_t behind = at;
      for (const auto& [first, last] : scan.value.ranges) {
        if (first < behind || last <= first || last > scan.value.walked_to) {
          fail("the pages written to cannot be told", EIO);
        }
        found.push_back(range.subspan(first - begin, last - first));
        behind = last;
      }
      at = scan.value.walked_to;
    }
  }
  return found;
}

}  // namespace zerocopy
