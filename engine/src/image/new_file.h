// A file that is seen when it is complete, and not before.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "system/file_descriptor.h"

namespace zerocopy {

class System;

// A file to be written and then put in the place of what has its path. Until then it has no name where the file system
// can do that (O_TMPFILE), so that nothing is left when the process is killed; else it has one that no other file in
// the directory has, and that begins with `.zerocopy-`. The destructor removes what commit() has not put in place.
//
// write() may be called from any thread, also at once; everything else is its owner's. `system` must outlive this.
class NewFile {
 public:
  // The file gets the permissions of the one that it is to replace; without one, those that the process's umask leaves.
  // Throws Error::Code::system_call when no file can be made in the directory of `path`, or something other than a
  // regular file has that path.
  NewFile(std::string path, System& system);
  NewFile(NewFile&&) = delete;
  NewFile& operator=(NewFile&&) = delete;
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  // Writes bytes, one span after the other, from `offset` on. Throws Error::Code::system_call.
  void write(std::span<const std::span<const std::byte>> bytes, std::uint64_t offset) const;

  // Makes the file durable and puts it in place; what was there is gone in the same moment. Throws
  // Error::Code::system_call. If only the very last step fails, which makes the new name durable, the file is in place.
  void commit();

 private:
  [[noreturn]] void refuse(const std::string& what, int error) const;
  template <typename Make>
  int with_free_name(Make make);
  void put_in_place();
  [[nodiscard]] std::optional<unsigned> permissions_of_old() const;

  System* system_;
  std::string path_;
  std::string directory_;
  std::string name_;  // The file's own, if it has one.
  FileDescriptor file_;
};

}  // namespace zerocopy
