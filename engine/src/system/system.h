// The engine's one door to the operating system.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "system/file_descriptor.h"
#include "system/result.h"

namespace zerocopy {

// Which file: the device it is on and its number there. Names may go (Ray unlinks its files); this stays.
struct FileId {
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::uint64_t inode = 0;  // 0: no file.

  // NOLINTNEXTLINE(modernize-use-nullptr): what clang-tidy 14 makes of it.
  friend auto operator<=>(const FileId&, const FileId&) = default;
};

// One mapping of this process: the addresses [begin, end), and the file's byte that lies at begin.
struct Mapping {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::uint64_t offset = 0;
  FileId file;
  bool readable = false;
  bool shared = false;  // MAP_SHARED: what is there is the file's, not this process's own.

  friend bool operator==(const Mapping&, const Mapping&) = default;
};

enum class FileKind : std::uint8_t {
  regular,
  directory,
  other,  // A pipe, a device, a socket.
};

struct FileStatus {
  FileId id;
  std::uint64_t size = 0;      // Bytes.
  bool on_huge_pages = false;  // hugetlbfs: cannot be mapped page by page.
  FileKind kind = FileKind::regular;
  unsigned permissions = 0;  // Those of owner, group and others: nine bits.
};

struct Pipe {
  FileDescriptor read;
  FileDescriptor write;
};

// Where a scan for pages came to, and how many bytes it counted on the way.
struct PageScan {
  std::uintptr_t walked_to = 0;
  std::uint64_t own_bytes = 0;
};

// Where a scan for pages written to came to, and the addresses [first, last) of those that it found.
struct WrittenPages {
  std::uintptr_t walked_to = 0;
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> ranges;
};

// Every question to and demand on the operating system that the engine has. The real one is a process-wide object;
// tests put another in its place to see what the engine does when a call fails. Each member is one system call (or one
// pass through a file or directory of /proc), repeated when a signal interrupts it, and reports failure by its errno;
// ENOTSUP where the operating system has no such thing.
//
// All members may be called from any thread. An implementation must outlive everything that was given it.
class System {
 public:
  System() = default;
  System(System&&) = delete;
  System& operator=(System&&) = delete;
  System(const System&) = delete;
  System& operator=(const System&) = delete;
  virtual ~System() = default;

  // The operating system itself. Lives until the process ends, through the destructors of static objects too.
  static System& real() noexcept;

  // Addresses and lengths of mappings below are multiples of this.
  [[nodiscard]] virtual std::size_t page_size() const noexcept = 0;

  // Address space that nothing may be read from or written to, to be mapped over.
  virtual Result<std::byte*> reserve(std::size_t length) = 0;

  // Private (copy on write), readable and writable mapping of a file open for reading; at `address` when that isn't
  // null, in place of what is there. No swap space is set aside for it.
  virtual Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::size_t length,
                                         std::byte* address) = 0;

  // Shared, readable mapping of a file open for reading, from its first byte on.
  virtual Result<std::byte*> map_shared(int descriptor, std::size_t length) = 0;

  virtual int unmap(std::span<std::byte> range) = 0;

  // Puts all pages of a range into this process's page table as if each was read (MADV_POPULATE_READ, Linux 5.14; for
  // one page in sixteen, and for those that the kernel did not map with it). The range begins at a page.
  virtual int populate(std::span<const std::byte> range) = 0;

  // The same by reading a byte of each page.
  virtual void touch(std::span<const std::byte> range) = 0;

  // Gives this process's own pages back; the next access finds what the file has there (MADV_DONTNEED).
  virtual int discard(std::span<std::byte> range) = 0;

  // The mapping that holds an address (PROCMAP_QUERY, Linux 6.11), given an open /proc/self/maps; ENOENT for none.
  virtual Result<Mapping> query_mapping(int maps, std::uintptr_t address) = 0;

  // Counts the pages in [begin, end) that are present or swapped and not a file's (PAGEMAP_SCAN, Linux 6.7), given an
  // open /proc/self/pagemap. May stop early: go on from walked_to.
  virtual Result<PageScan> scan_own_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) = 0;

  // Something to watch writes with (userfaultfd with asynchronous write protection, Linux 6.7).
  virtual Result<FileDescriptor> open_write_watch() = 0;

  // From now on the first write to each page of a range is noted, again if it was watched before.
  virtual int watch_writes(int watch, std::span<std::byte> range) = 0;

  // The pages in [begin, end), all of them watched, that were written to since then (PAGEMAP_SCAN), given an open
  // /proc/self/pagemap. May stop early: go on from walked_to.
  virtual Result<WrittenPages> scan_written_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) = 0;

  // For reading only, without waiting for the other end of what turns out to be a pipe. Every descriptor that comes
  // from here is closed by exec, and but for those of the two members that create files, none is for writing.
  virtual Result<FileDescriptor> open(const std::string& path) = 0;

  // A new, empty regular file for writing that has no name, in the file system of a directory (O_TMPFILE). It is gone
  // with its descriptor unless link() gives it a name.
  virtual Result<FileDescriptor> create_unnamed(const std::string& directory) = 0;

  // A new, empty regular file for writing; EEXIST when something has that name already.
  virtual Result<FileDescriptor> create(const std::string& path) = 0;

  // Gives a file of this process's user the permissions that FileStatus tells.
  virtual int set_permissions(int descriptor, unsigned permissions) = 0;

  // Writes some bytes, one span after the other, to a file from `offset` on. The value is how many were written, which
  // may be fewer than all; no more than 1,024 spans are looked at.
  virtual Result<std::size_t> write_at(int descriptor, std::span<const std::span<const std::byte>> bytes,
                                       std::uint64_t offset) = 0;

  // Returns when what was written to a file, or the names in a directory, would outlast a loss of power.
  virtual int sync(int descriptor) = 0;

  // Gives a file of create_unnamed() a name; EEXIST when something has that name already.
  virtual int link(int descriptor, const std::string& path) = 0;

  // Puts a file in the place of what has the name `to`, if anything has; whoever opens `to` finds one or the other.
  virtual int rename(const std::string& from, const std::string& to) = 0;

  virtual int remove(const std::string& path) = 0;

  virtual Result<FileStatus> status(int descriptor) = 0;
  virtual Result<std::size_t> read_at(int descriptor, std::span<std::byte> into, std::uint64_t offset) = 0;
  virtual Result<std::string> read_file(const std::string& path) = 0;

  // The names in a directory, without order and without the two that every directory has.
  virtual Result<std::vector<std::string>> names_in(const std::string& directory) = 0;

  [[nodiscard]] virtual int process_id() const noexcept = 0;
  [[nodiscard]] virtual int parent_process_id() const noexcept = 0;

  // Those of this process's user, without order.
  virtual Result<std::vector<int>> processes() = 0;

  // A process's name as the kernel has it (/proc/PID/comm), without the line's end.
  virtual Result<std::string> process_name(int process) = 0;

  // A new descriptor on a regular file that `process` holds open (/proc/PID/fd). ENOENT: it holds none; ENODEV: the
  // file is not a regular one, and was not touched.
  virtual Result<FileDescriptor> open_held_file(int process, const FileId& file) = 0;

  virtual Result<Pipe> open_pipe() = 0;

  // Waits until a pipe, given by its read end, has no write end any more in any process, or the time is over. Returns
  // the read ends of all pipes that have none.
  virtual Result<std::vector<int>> wait_for_hangup(std::span<const int> pipes, std::chrono::milliseconds at_most) = 0;

  // The calling thread takes no signals from now on: they are for threads that the application knows of.
  virtual void block_signals() noexcept = 0;

  // Runs `before` ahead of every fork of this process, and behind it one of the others in each process.
  virtual void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)()) = 0;
};

}  // namespace zerocopy
