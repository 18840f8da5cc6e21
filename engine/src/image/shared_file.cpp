#include "zerocopy/shared_file.h"

#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "zerocopy/error.h"

namespace zerocopy {
namespace {

[[noreturn]] void fail(const std::string& what, int error) {
  throw Error(Error::Code::system_call, what + ": " + std::generic_category().message(error), error);
}

}  // namespace

SharedFile::SharedFile(FileDescriptor descriptor, std::string name, System& system)
    : descriptor_(std::move(descriptor)), name_(std::move(name)), system_(&system) {
  const Result<FileStatus> status = system.status(descriptor_.number());
  if (!status.ok()) {
    fail("the length of " + name_ + " cannot be asked for", status.error);
  }
  if (status.value.kind == FileKind::directory) {
    fail(name_ + " cannot be mapped", EISDIR);
  }
  if (status.value.kind == FileKind::other) {
    throw Error(Error::Code::not_an_image, name_ + " is a pipe or a device: only regular files can be mapped");
  }
  if (status.value.size == 0) {
    return;  // Nothing can be mapped.
  }
  if (std::cmp_greater(status.value.size, std::numeric_limits<std::ptrdiff_t>::max())) {
    throw Error(Error::Code::too_large, name_ + " has " + std::to_string(status.value.size) + " bytes");
  }
  const auto length = static_cast<std::size_t>(status.value.size);
  const Result<std::byte*> mapped = system.map_shared(descriptor_.number(), length);
  if (!mapped.ok()) {
    fail(name_ + " cannot be mapped", mapped.error);
  }
  bytes_ = {mapped.value, length};
}

SharedFile::~SharedFile() {
  if (!bytes_.empty()) {
    system_->unmap(bytes_);
  }
}

std::shared_ptr<const SharedFile> SharedFile::open(const std::string& path, System& system) {
  Result<FileDescriptor> descriptor = system.open(path);
  if (!descriptor.ok()) {
    fail(path + " cannot be opened", descriptor.error);
  }
  return adopt(std::move(descriptor.value), path, system);
}

std::shared_ptr<const SharedFile> SharedFile::adopt(FileDescriptor descriptor, std::string name, System& system) {
  // The constructor is private: std::make_shared cannot call it.
  return std::shared_ptr<const SharedFile>(new SharedFile(std::move(descriptor), std::move(name), system));
}

}  // namespace zerocopy
