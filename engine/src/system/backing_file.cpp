#include "system/backing_file.h"

#include <cerrno>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <tuple>

#include "system/immortal.h"
#include "system/system.h"
#include "zerocopy/error.h"

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
Result<FileDescriptor> open_held_by(int process, const FileId& file, System& system) {
  Result<FileDescriptor> held = system.open_held_file(process, file);
  if (held.error == ENODEV) {
    throw Error(Error::Code::not_mappable, described(file) + " is not a regular file");
  }
  return held;
}

// What keeps this process from its parent's files, where most are, and what to do about it.
std::string obstacle(int parent, int error, System& system) {
  if (parent == 0) {
    return "its parent is in another PID namespace; let them have one (docker run --pid=host or --pid=container:NAME, "
           "shareProcessNamespace: true in Kubernetes)";
  }
  const std::string process = "process " + std::to_string(parent) + ", its parent";
  if (error != 0 && error != ENOENT) {
    return "it may not look at the files of " + process + " (" + std::generic_category().message(error) +
           "); run both as the same user, and have seccomp and other security modules allow it";
  }
  if (!system.process_name(parent).ok()) {
    return "it does not see " + process + "; mount /proc without hidepid";
  }
  return "neither itself does, nor " + process + ", nor a process of its user that is named raylet";
}

FileDescriptor search(const FileId& file, System& system) {
  const int self = system.process_id();
  const int parent = system.parent_process_id();
  int error = 0;  // Of the parent, which is asked last.
  for (const int process : {self, parent}) {
    Result<FileDescriptor> found = open_held_by(process, file, system);
    if (found.ok()) {
      return std::move(found.value);
    }
    error = found.error;
  }
  for (const int process : system.processes().value) {
    if (process == self || process == parent || system.process_name(process).value != "raylet") {
      continue;
    }
    if (Result<FileDescriptor> found = open_held_by(process, file, system); found.ok()) {
      return std::move(found.value);
    }
  }
  throw Error(Error::Code::not_held_open, "this process finds no other that holds " + described(file) +
                                              " open: " + obstacle(parent, error, system));
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
    throw Error(Error::Code::not_mappable,
                described(file) + " is made of huge pages (hugetlbfs); have the store use a tmpfs without them");
  }
  // NOLINTNEXTLINE(cppcoreguidelines-owning-memory): make_shared cannot call a private constructor.
  known.reset(new BackingFile(file, std::move(descriptor), system));
  entry = known;
  return known;
}

std::uint64_t BackingFile::size() const { return status_of(descriptor(), id_, *system_).size; }

}  // namespace zerocopy
