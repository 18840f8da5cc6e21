#include "zerocopy/backing_file.h"

#include <cerrno>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <tuple>

#include "immortal.h"
#include "zerocopy/error.h"
#include "zerocopy/system.h"

namespace zerocopy {
namespace {

// The files that somebody has open now.
struct Registry {
  std::mutex mutex;
  std::map<std::tuple<System*, FileId>, std::weak_ptr<const BackingFile>> files;
};

Registry& registry() {
  static Immortal<Registry> files;
  return files.get();
}

// A fork while another thread is at the registry would leave the child with a lock that nobody opens. Set up as the
// engine is loaded: at the first use, a fork could come between.
// NOLINTNEXTLINE(bugprone-throwing-static-initialization): it is noexcept.
[[maybe_unused]] const bool registry_is_held_during_forks = []() noexcept {
  registry();
  constexpr auto unlock = [] { registry().mutex.unlock(); };
  System::real().at_fork([] { registry().mutex.lock(); }, unlock, unlock);
  return true;
}();

std::string described(const FileId& file) {
  return "file " + std::to_string(file.device_major) + ":" + std::to_string(file.device_minor) + " inode " +
         std::to_string(file.inode);
}

// Throws not_mappable; any other failure only means that the file has to be found elsewhere.
FileDescriptor open_held_by(int process, const FileId& file, System& system) {
  Result<FileDescriptor> held = system.open_held_file(process, file);
  if (held.error == ENODEV) {
    throw Error(Error::Code::not_mappable, described(file) + " is not a regular file");
  }
  return std::move(held.value);
}

FileDescriptor search(const FileId& file, System& system) {
  const int self = system.process_id();
  const int parent = system.parent_process_id();
  for (const int process : {self, parent}) {
    if (FileDescriptor found = open_held_by(process, file, system); found.number() != -1) {
      return found;
    }
  }
  for (const int process : system.processes().value) {
    if (process == self || process == parent || system.process_name(process).value != "raylet") {
      continue;
    }
    if (FileDescriptor found = open_held_by(process, file, system); found.number() != -1) {
      return found;
    }
  }
  throw Error(Error::Code::not_held_open, "no process that may be asked holds " + described(file) + " open");
}

FileStatus status_of(int descriptor, const FileId& file, System& system) {
  const Result<FileStatus> status = system.status(descriptor);
  if (!status.ok()) {
    throw Error(Error::Code::system_call,
                described(file) + " cannot be examined: " + std::generic_category().message(status.error),
                status.error);
  }
  return status.value;
}

}  // namespace

BackingFile::BackingFile(const FileId& id, FileDescriptor descriptor, System& system)
    : id_(id), descriptor_(std::move(descriptor)), system_(&system) {}

std::shared_ptr<const BackingFile> BackingFile::find(const FileId& file, System& system) {
  Registry& open = registry();
  // Held during the search, so that threads that want the same file at once open it once.
  const std::scoped_lock lock(open.mutex);
  std::erase_if(open.files, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<const BackingFile>& entry = open.files[{&system, file}];
  std::shared_ptr<const BackingFile> known = entry.lock();
  if (known) {
    return known;
  }
  FileDescriptor descriptor = search(file, system);
  if (status_of(descriptor.number(), file, system).on_huge_pages) {
    throw Error(Error::Code::not_mappable, described(file) + " is made of huge pages (hugetlbfs)");
  }
  // NOLINTNEXTLINE(cppcoreguidelines-owning-memory): make_shared cannot call a private constructor.
  known.reset(new BackingFile(file, std::move(descriptor), system));
  entry = known;
  return known;
}

std::uint64_t BackingFile::size() const { return status_of(descriptor(), id_, *system_).size; }

}  // namespace zerocopy
