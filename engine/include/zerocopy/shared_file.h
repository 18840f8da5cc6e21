// A file whose bytes any number of processes share through the page cache.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace zerocopy {

class System;

// A file, mapped as a whole, shared and read-only. The object keeps a descriptor on it as well, so the bytes remain
// when the file's name is removed or given to another file (which is how a file should be replaced: by rename). A View
// over spans of bytes() finds that descriptor and maps the same pages, copy on write.
//
// What no reader can prevent is that somebody writes to the file in place: other bytes are then seen here as well. If
// somebody shortens it, an access behind its new end raises SIGBUS, which ends the process. A sealed memfd
// (F_SEAL_SHRINK, F_SEAL_WRITE) is safe from both.
//
// Ownership: the object owns its descriptor and its mapping; whoever keeps the shared pointer keeps the bytes.
// Threads: all members may be called from any thread at any time. A child after fork has the mapping as well.
class SharedFile {
 public:
  // Opens the file at `path` for reading. Throws Error::Code::system_call, with the errno of the call that failed, when
  // it cannot be opened or mapped (ENOENT, EACCES, EISDIR, ...), and Error::Code::not_an_image when it is a pipe or a
  // device.
  static std::shared_ptr<const SharedFile> open(const std::string& path);

  // The same with `system` in the place of the operating system. It must outlive the object.
  static std::shared_ptr<const SharedFile> open(const std::string& path, System& system);

  // Takes over a descriptor that is open for reading: a memfd, or a file that was received from another process. From
  // the call on it is no longer the caller's to close: the object closes it, or, if this throws, it is closed by then.
  // `name` is for messages. Throws as open() does.
  static std::shared_ptr<const SharedFile> adopt(int descriptor, std::string name);

  SharedFile(SharedFile&&) = delete;
  SharedFile& operator=(SharedFile&&) = delete;
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;
  ~SharedFile();

  // The whole file, as long as it was when it was opened. An empty file has no address.
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept;

  // The path that was opened, or the name that was given.
  [[nodiscard]] const std::string& name() const noexcept;

  // Remains this object's.
  [[nodiscard]] int descriptor() const noexcept;

  // The `system` that open() was given, else the operating system.
  [[nodiscard]] System& system() const noexcept;

 private:
  class Impl;

  explicit SharedFile(std::unique_ptr<const Impl> impl) noexcept;

  std::unique_ptr<const Impl> impl_;
};

}  // namespace zerocopy
