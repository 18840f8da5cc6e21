#include "zerocopy/shared_file.h"

#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "system/file_descriptor.h"
#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

[[noreturn]] void fail(const std::string& what, int error) {
  throw Error(Error::Code::system_call, what + ": " + std::generic_category().message(error), error);
}

}  // namespace

// Owns the descriptor and the mapping. Its members may be called from any thread.
class SharedFile::Impl {
 public:
  Impl(FileDescriptor descriptor, std::string name, System& system)
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
  Impl(Impl&&) = delete;
  Impl& operator=(Impl&&) = delete;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (!bytes_.empty()) {
      system_->unmap(bytes_);
    }
  }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_.number(); }
  [[nodiscard]] System& system() const noexcept { return *system_; }

 private:
  FileDescriptor descriptor_;
  std::string name_;
  System* system_;
  std::span<std::byte> bytes_;
};

// The constructor is private: std::make_shared cannot call it.
std::shared_ptr<const SharedFile> SharedFile::open(const std::string& path, System& system) {
  Result<FileDescriptor> descriptor = system.open(path);
  if (!descriptor.ok()) {
    fail(path + " cannot be opened", descriptor.error);
  }
  return std::shared_ptr<const SharedFile>(
      new SharedFile(std::make_unique<const Impl>(std::move(descriptor.value), path, system)));
}

std::shared_ptr<const SharedFile> SharedFile::open(const std::string& path) { return open(path, System::real()); }

std::shared_ptr<const SharedFile> SharedFile::adopt(int descriptor, std::string name) {
  FileDescriptor owned(descriptor);  // First: whatever fails from here on, it is closed.
  return std::shared_ptr<const SharedFile>(
      new SharedFile(std::make_unique<const Impl>(std::move(owned), std::move(name), System::real())));
}

SharedFile::SharedFile(std::unique_ptr<const Impl> impl) noexcept : impl_(std::move(impl)) {}
SharedFile::~SharedFile() = default;

std::span<const std::byte> SharedFile::bytes() const noexcept { return impl_->bytes(); }

const std::string& SharedFile::name() const noexcept { return impl_->name(); }

int SharedFile::descriptor() const noexcept { return impl_->descriptor(); }

System& SharedFile::system() const noexcept { return impl_->system(); }

}  // namespace zerocopy
