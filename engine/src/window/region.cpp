#include "window/region.h"

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

std::byte* mapped(const Result<std::byte*>& result, std::size_t length) {
  if (!result.ok()) {
    throw Error(
        Error::Code::system_call,
        std::to_string(length) + " bytes cannot be mapped privately: " + std::generic_category().message(result.error) +
            (result.error == ENOMEM ? "; raise the limit of address space (ulimit -v) or of mappings (vm.max_map_count)"
                                    : ""),
        result.error);
  }
  return result.value;
}

}  // namespace

Region::Region(std::vector<FilePart> parts, System& system) : parts_(std::move(parts)), system_(&system) {
  const auto map = [&](const FilePart& part, std::byte* address) {
    return mapped(system.map_private(part.file->descriptor(), part.offset, part.length, address), part.length);
  };
  if (parts_.size() == 1) {
    bytes_ = {map(parts_.front(), nullptr), parts_.front().length};
    return;
  }
  std::size_t length = 0;
  for (const FilePart& part : parts_) {
    length += part.length;
  }
  // Held by an owner from here on: mapping a part may throw.
  Region reserved({}, system, {mapped(system.reserve(length), length), length});
  std::byte* next = reserved.bytes_.data();
  for (const FilePart& part : parts_) {
    map(part, next);
    next += part.length;
  }
  bytes_ = std::exchange(reserved.bytes_, {});
}

Region::Region(std::vector<FilePart> parts, System& system, std::span<std::byte> bytes) noexcept
    : parts_(std::move(parts)), system_(&system), bytes_(bytes) {}

Region::Region(Region&& other) noexcept
    : parts_(std::move(other.parts_)), system_(other.system_), bytes_(std::exchange(other.bytes_, {})) {}

Region::~Region() {
  if (!bytes_.empty()) {
    system_->unmap(bytes_);
  }
}

}  // namespace zerocopy
