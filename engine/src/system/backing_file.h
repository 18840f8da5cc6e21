// The file behind shared memory, open for reading.
#pragma once

#include <cstdint>
#include <memory>

#include "system/file_descriptor.h"
#include "system/system.h"

namespace zerocopy {

// A read-only descriptor on a file that this process has mapped, though it may have closed its descriptor and the file
// may have no name any more. It is found where the file is still held open: in this process, else in its parent (a Ray
// worker's parent is its raylet, which holds the store's files), else in another process of the same user named
// `raylet`. The descriptor is a new one, never the finder's own, and nothing is ever opened for writing.
//
// Opened once per file and shared: while somebody holds the result of find(), every find() of the same file gives the
// same object. May be used from any thread, and in a child after fork.
class BackingFile {
 public:
  // Throws Error: not_held_open when no process has it (or none that may be asked); not_mappable when it has been found
  // but is no file whose single pages can be mapped. `system` must outlive the result.
  static std::shared_ptr<const BackingFile> find(const FileId& file, System& system);

  [[nodiscard]] const FileId& id() const noexcept { return id_; }

  // Stays this object's.
  [[nodiscard]] int descriptor() const noexcept { return descriptor_.number(); }

  // The file's length now, in bytes. Throws Error::Code::system_call.
  [[nodiscard]] std::uint64_t size() const;

 private:
  BackingFile(const FileId& id, FileDescriptor descriptor, System& system);

  FileId id_;
  FileDescriptor descriptor_;
  System* system_;
};

}  // namespace zerocopy
