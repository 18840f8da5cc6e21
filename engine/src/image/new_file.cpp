#include "image/new_file.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

std::string directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path().string() : std::string(1, '.');
}

}  // namespace

NewFile::NewFile(std::string path, System& system)
    : system_(&system), path_(std::move(path)), directory_(directory_of(path_)) {
  const std::optional<unsigned> permissions = permissions_of_old();
  Result<FileDescriptor> file = system.create_unnamed(directory_);
  if (!file.ok()) {  // Whatever the reason: if there is no other way either, that one's reason counts.
    const int error = with_free_name([&](const std::string& name) {
      file = system.create(name);
      return file.error;
    });
    if (error != 0) {
      refuse("cannot be made", error);
    }
  }
  file_ = std::move(file.value);
  if (permissions) {
    // Not on every file system; then the new file has those of any other.
    static_cast<void>(system.set_permissions(file_.number(), *permissions));
  }
}

NewFile::~NewFile() {
  if (!name_.empty()) {
    system_->remove(name_);
  }
}

void NewFile::write(std::span<const std::span<const std::byte>> bytes, std::uint64_t offset) const {
  std::vector<std::span<const std::byte>> left(bytes.begin(), bytes.end());
  std::size_t done = 0;  // Spans of which nothing is left.
  while (true) {
    while (done < left.size() && left[done].empty()) {
      ++done;
    }
    if (done == left.size()) {
      return;
    }
    const Result<std::size_t> written = system_->write_at(file_.number(), std::span(left).subspan(done), offset);
    if (!written.ok() || written.value == 0) {
      refuse("cannot be written", written.ok() ? ENOSPC : written.error);
    }
    offset += written.value;
    for (std::size_t more = written.value; more > 0;) {
      const std::size_t of_this = std::min(more, left[done].size());
      left[done] = left[done].subspan(of_this);
      more -= of_this;
      done += left[done].empty() ? 1 : 0;
    }
  }
}

void NewFile::commit() {
  // Before the file has its name: a name of a file without its bytes is what must not be seen after a loss of power.
  if (const int error = system_->sync(file_.number()); error != 0) {
    refuse("cannot be made durable", error);
  }
  put_in_place();
  const Result<FileDescriptor> directory = system_->open(directory_);
  const int error = directory.ok() ? system_->sync(directory.value.number()) : directory.error;
  if (error != 0 && error != EINVAL) {  // Some file systems know nothing of it.
    refuse("is in place, but its name cannot be made durable", error);
  }
}

void NewFile::put_in_place() {
  if (name_.empty()) {
    int error = system_->link(file_.number(), path_);
    if (error == 0) {
      return;
    }
    if (error == EEXIST) {
      error = with_free_name([&](const std::string& name) { return system_->link(file_.number(), name); });
    }
    if (error != 0) {
      refuse("cannot be given its name", error);
    }
  }
  if (const int error = system_->rename(name_, path_); error != 0) {
    refuse("cannot be put in place", error);
  }
  name_.clear();
}

// Renaming would put a file in the place of a device or a pipe as well.
std::optional<unsigned> NewFile::permissions_of_old() const {
  const Result<FileDescriptor> old = system_->open(path_);
  if (old.error == ENOENT || old.error == EACCES) {
    return std::nullopt;
  }
  const Result<FileStatus> status = old.ok() ? system_->status(old.value.number()) : Result<FileStatus>{{}, old.error};
  if (!status.ok()) {
    refuse("cannot be replaced", status.error);
  }
  if (status.value.kind != FileKind::regular) {
    refuse("is not a regular file, and cannot be replaced", status.value.kind == FileKind::directory ? EISDIR : EINVAL);
  }
  return status.value.permissions;
}

// Calls `make` with names in the directory until one is free, which is the file's then. Returns the errno of `make`.
template <typename Make>
int NewFile::with_free_name(Make make) {
  static std::atomic<unsigned> next{0};
  for (;;) {
    std::string name = std::filesystem::path(directory_) /
                       (".zerocopy-" + std::to_string(system_->process_id()) + "-" + std::to_string(next.fetch_add(1)));
    const int error = make(name);
    if (error == 0) {
      name_ = std::move(name);
    }
    if (error != EEXIST) {
      return error;
    }
  }
}

void NewFile::refuse(const std::string& what, int error) const {
  throw Error(Error::Code::system_call, path_ + " " + what + ": " + std::generic_category().message(error), error);
}

}  // namespace zerocopy
