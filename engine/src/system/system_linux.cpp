// The door to Linux.
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "system/immortal.h"
#include "system/system.h"

namespace zerocopy {
namespace {

// Interfaces of kernels newer than the headers that this may be built with: include/uapi/linux/fs.h.
constexpr int kMadvisePopulateRead = 22;

struct PageRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};

struct PagemapScan {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
constexpr std::uint64_t kPageIsFile = 1U << 2U;
constexpr std::uint64_t kPageIsPresent = 1U << 3U;
constexpr std::uint64_t kPageIsSwapped = 1U << 4U;
constexpr std::uint64_t kPageIsWritten = 1U << 1U;
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);

// include/uapi/linux/userfaultfd.h
constexpr int kUserModeOnly = 1;
struct UserfaultApi {
  std::uint64_t api;
  std::uint64_t features;
  std::uint64_t ioctls;
};
struct UserfaultRegister {
  std::uint64_t start;
  std::uint64_t length;
  std::uint64_t mode;
  std::uint64_t ioctls;
};
struct UserfaultWriteProtect {
  std::uint64_t start;
  std::uint64_t length;
  std::uint64_t mode;
};
constexpr std::uint64_t kUserfaultApi = 0xAA;
constexpr std::uint64_t kWriteProtectSharedMemory = 1U << 12U;
constexpr std::uint64_t kWriteProtectUnpopulated = 1U << 13U;
constexpr std::uint64_t kWriteProtectAsynchronous = 1U << 15U;
constexpr std::uint64_t kRegisterWriteProtect = 1U << 1U;
constexpr std::uint64_t kProtect = 1U << 0U;
constexpr unsigned long kUserfaultApiCall = _IOWR(0xAA, 0x3F, UserfaultApi);
constexpr unsigned long kUserfaultRegister = _IOWR(0xAA, 0x00, UserfaultRegister);
constexpr unsigned long kUserfaultWriteProtect = _IOWR(0xAA, 0x06, UserfaultWriteProtect);

struct MappingQuery {
  std::uint64_t size;
  std::uint64_t query_flags;
  std::uint64_t query_addr;
  std::uint64_t vma_start;
  std::uint64_t vma_end;
  std::uint64_t vma_flags;
  std::uint64_t vma_page_size;
  std::uint64_t vma_offset;
  std::uint64_t inode;
  std::uint32_t dev_major;
  std::uint32_t dev_minor;
  std::uint32_t vma_name_size;
  std::uint32_t build_id_size;
  std::uint64_t vma_name_addr;
  std::uint64_t build_id_addr;
};
constexpr std::uint64_t kMappingReadable = 1U << 0U;
constexpr std::uint64_t kMappingShared = 1U << 3U;
constexpr unsigned long kMappingQuery = _IOWR('f', 17, MappingQuery);

constexpr int kLowDescriptors = 256;

// How far a read fault reaches, at most: the kernel also maps the pages around the one that was asked for, those that
// are in memory and that nobody has locked at the moment, within an aligned window (fault_around_bytes, 64 KiB unless
// it was set otherwise; mm/memory.c and mm/filemap.c of the kernel). What it leaves out is asked for by itself, in
// pieces: a thread that maps memory waits while one is under way.
constexpr std::size_t kFaultWindow = std::size_t{64} << 10U;
constexpr std::size_t kPopulatePiece = std::size_t{256} << 10U;

using Statx = struct statx;  // The functions have the same names.
using Statfs = struct statfs;

// The result of a call that returns -1 for failure, made again for as long as a signal interrupts it.
template <typename Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) {
    result = call();
  }
  return result;
}

using PageRegions = std::array<PageRegion, 256>;

// The ranges of pages of the categories that `scan` names, as many as `regions` has room for; sets scan.walk_end.
Result<std::span<const PageRegion>> scan_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end, PagemapScan& scan,
                                               PageRegions& regions) {
  scan.size = sizeof scan;
  scan.start = begin;
  scan.end = end;
  scan.vec = std::bit_cast<std::uintptr_t>(regions.data());
  scan.vec_len = regions.size();
  const int count = uninterrupted([&] { return ::ioctl(pagemap, kPagemapScan, &scan); });
  if (count == -1) {
    return {{}, errno};
  }
  return {std::span(regions).first(static_cast<std::size_t>(count))};
}

struct CloseDirectory {
  void operator()(DIR* directory) const noexcept { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

std::optional<int> as_number(std::string_view name) {
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc{} || end != name.data() + name.size()) {
    return std::nullopt;
  }
  return number;
}

// Calls `entry(directory descriptor, name)` for the entries of a directory, until it says true.
template <typename Entry>
int for_each_entry(const std::string& path, Entry entry) {
  const Directory directory(::opendir(path.c_str()));
  if (!directory) {
    return errno;
  }
  for (;;) {
    errno = 0;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): unsafe only on one directory stream; this one is nobody else's.
    const dirent* found = ::readdir(directory.get());
    if (found == nullptr) {
      return errno;
    }
    if (entry(::dirfd(directory.get()), &found->d_name[0])) {
      return 0;
    }
  }
}

// The same for the entries that are numbers.
template <typename Entry>
int for_each_number(const std::string& path, Entry entry) {
  return for_each_entry(path,
                        [&](int directory, const char* name) { return as_number(name) && entry(directory, name); });
}

FileId file_id(const Statx& found) { return {found.stx_dev_major, found.stx_dev_minor, found.stx_ino}; }

FileKind kind_of(const Statx& found) {
  if (S_ISREG(found.stx_mode)) {
    return FileKind::regular;
  }
  return S_ISDIR(found.stx_mode) ? FileKind::directory : FileKind::other;
}

std::string in_proc(int process, const char* entry) { return "/proc/" + std::to_string(process) + "/" + entry; }

// A thread of the application may be writing to the byte that is read here. Its value is not used; but for the race
// detector a race is a race.
__attribute__((no_sanitize("thread"))) void read_a_byte_of_each_page(std::span<const std::byte> range,
                                                                     std::size_t page_size) {
  const volatile std::byte* const bytes = range.data();
  for (std::size_t at = 0; at < range.size(); at += page_size) {
    static_cast<void>(bytes[at]);
  }
}

class LinuxSystem final : public System {
 public:
  [[nodiscard]] std::size_t page_size() const noexcept override { return page_size_; }

  Result<std::byte*> reserve(std::size_t length) override {
    return mapped(::mmap(nullptr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }

  Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::size_t length,
                                 std::byte* address) override {
    const int fixed = address != nullptr ? MAP_FIXED : 0;
    return mapped(::mmap(address, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | fixed, descriptor,
                         static_cast<off_t>(offset)));
  }

  Result<std::byte*> map_shared(int descriptor, std::size_t length) override {
    return mapped(::mmap(nullptr, length, PROT_READ, MAP_SHARED, descriptor, 0));
  }

  int unmap(std::span<std::byte> range) override { return error_of(::munmap(range.data(), range.size())); }

  int populate(std::span<const std::byte> range) override {
    if (range.size() <= kFaultWindow) {
      return populate_pages(range);
    }
    const int error = populate_windows(range);
    return error != 0 ? error : populate_absent(range);
  }

  void touch(std::span<const std::byte> range) override { read_a_byte_of_each_page(range, page_size_); }

  int discard(std::span<std::byte> range) override { return error_of(advise(range, MADV_DONTNEED)); }

  Result<Mapping> query_mapping(int maps, std::uintptr_t address) override {
    MappingQuery query{};
    query.size = sizeof query;
    query.query_addr = address;
    if (uninterrupted([&] { return ::ioctl(maps, kMappingQuery, &query); }) == -1) {
      return {{}, errno};
    }
    return {Mapping{query.vma_start,
                    query.vma_end,
                    query.vma_offset,
                    {query.dev_major, query.dev_minor, query.inode},
                    (query.vma_flags & kMappingReadable) != 0,
                    (query.vma_flags & kMappingShared) != 0}};
  }

  Result<PageScan> scan_own_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    PagemapScan scan{};
    scan.category_inverted = kPageIsFile;
    scan.category_mask = kPageIsFile;
    scan.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
    scan.return_mask = kPageIsFile;
    PageRegions regions;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel fills it.
    const Result<std::span<const PageRegion>> found = scan_pages(pagemap, begin, end, scan, regions);
    if (!found.ok()) {
      return {{}, found.error};
    }
    PageScan result{scan.walk_end, 0};
    for (const PageRegion& region : found.value) {
      result.own_bytes += region.end - region.start;
    }
    return {result};
  }

  Result<FileDescriptor> open_write_watch() override {
    FileDescriptor watch(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | kUserModeOnly)));
    if (watch.number() == -1) {
      return {{}, errno};
    }
    UserfaultApi api{kUserfaultApi, kWriteProtectSharedMemory | kWriteProtectUnpopulated | kWriteProtectAsynchronous,
                     0};
    if (uninterrupted([&] { return ::ioctl(watch.number(), kUserfaultApiCall, &api); }) == -1) {
      return {{}, errno};
    }
    return {std::move(watch)};
  }

  int watch_writes(int watch, std::span<std::byte> range) override {
    const auto start = std::bit_cast<std::uintptr_t>(range.data());
    UserfaultRegister registration{start, range.size(), kRegisterWriteProtect, 0};
    UserfaultWriteProtect protection{start, range.size(), kProtect};
    if (uninterrupted([&] { return ::ioctl(watch, kUserfaultRegister, &registration); }) == -1 ||
        uninterrupted([&] { return ::ioctl(watch, kUserfaultWriteProtect, &protection); }) == -1) {
      return errno;
    }
    return 0;
  }

  Result<WrittenPages> scan_written_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    PagemapScan scan{};
    scan.category_mask = kPageIsWritten;
    scan.return_mask = kPageIsWritten;
    PageRegions regions;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel fills it.
    const Result<std::span<const PageRegion>> found = scan_pages(pagemap, begin, end, scan, regions);
    if (!found.ok()) {
      return {{}, found.error};
    }
    WrittenPages result{scan.walk_end, {}};
    for (const PageRegion& region : found.value) {
      result.ranges.emplace_back(region.start, region.end);
    }
    return {std::move(result)};
  }

  Result<FileDescriptor> open(const std::string& path) override { return open_in(AT_FDCWD, path.c_str()); }

  Result<FileDescriptor> create_unnamed(const std::string& directory) override {
    return created(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC);
  }

  Result<FileDescriptor> create(const std::string& path) override {
    return created(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
  }

  int set_permissions(int descriptor, unsigned permissions) override {
    return error_of(::fchmod(descriptor, permissions));
  }

  Result<std::size_t> write_at(int descriptor, std::span<const std::span<const std::byte>> bytes,
                               std::uint64_t offset) override {
    std::array<iovec, IOV_MAX> vectors;  // NOLINT(cppcoreguidelines-pro-type-member-init): as many as are used are.
    const std::size_t count = std::min(bytes.size(), vectors.size());
    for (std::size_t nth = 0; nth < count; ++nth) {
      // writev() takes pointers to mutable memory. NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast)
      vectors[nth] = {const_cast<std::byte*>(bytes[nth].data()), bytes[nth].size()};
    }
    const ssize_t written = uninterrupted(
        [&] { return ::pwritev(descriptor, vectors.data(), static_cast<int>(count), static_cast<off_t>(offset)); });
    if (written == -1) {
      return {0, errno};
    }
    return {static_cast<std::size_t>(written)};
  }

  int sync(int descriptor) override {
    return error_of(uninterrupted([&] { return ::fsync(descriptor); }));
  }

  int link(int descriptor, const std::string& path) override {
    const std::string held = "/proc/self/fd/" + std::to_string(descriptor);
    return error_of(::linkat(AT_FDCWD, held.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW));
  }

  int rename(const std::string& from, const std::string& to) override {
    return error_of(::rename(from.c_str(), to.c_str()));
  }

  int remove(const std::string& path) override { return error_of(::unlink(path.c_str())); }

  Result<FileStatus> status(int descriptor) override {
    Statx found{};
    Statfs file_system{};
    constexpr unsigned permissions = S_IRWXU | S_IRWXG | S_IRWXO;
    constexpr unsigned wanted = STATX_INO | STATX_SIZE | STATX_TYPE | STATX_MODE;
    if (uninterrupted([&] { return ::statx(descriptor, "", AT_EMPTY_PATH, wanted, &found); }) == -1 ||
        uninterrupted([&] { return ::fstatfs(descriptor, &file_system); }) == -1) {
      return {{}, errno};
    }
    return {FileStatus{file_id(found), found.stx_size, std::cmp_equal(file_system.f_type, HUGETLBFS_MAGIC),
                       kind_of(found), found.stx_mode & permissions}};
  }

  Result<std::size_t> read_at(int descriptor, std::span<std::byte> into, std::uint64_t offset) override {
    const ssize_t count =
        uninterrupted([&] { return ::pread(descriptor, into.data(), into.size(), static_cast<off_t>(offset)); });
    if (count == -1) {
      return {0, errno};
    }
    return {static_cast<std::size_t>(count)};
  }

  Result<std::string> read_file(const std::string& path) override {
    const Result<FileDescriptor> file = open(path);
    if (!file.ok()) {
      return {{}, file.error};
    }
    std::string text;
    std::size_t length = 0;
    for (;;) {
      text.resize(std::max<std::size_t>(256, 2 * length));
      const ssize_t count =
          uninterrupted([&] { return ::read(file.value.number(), text.data() + length, text.size() - length); });
      if (count == -1) {
        return {{}, errno};
      }
      if (count == 0) {
        text.resize(length);
        return {std::move(text)};
      }
      length += static_cast<std::size_t>(count);
    }
  }

  Result<std::vector<std::string>> names_in(const std::string& directory) override {
    std::vector<std::string> names;
    const int error = for_each_entry(directory, [&](int /*directory*/, std::string_view name) {
      if (name != "." && name != "..") {
        names.emplace_back(name);
      }
      return false;
    });
    return {std::move(names), error};
  }

  [[nodiscard]] int process_id() const noexcept override { return ::getpid(); }
  [[nodiscard]] int parent_process_id() const noexcept override { return ::getppid(); }

  Result<std::vector<int>> processes() override {
    std::vector<int> found;
    const uid_t user = ::geteuid();
    const int error = for_each_number("/proc", [&](int directory, const char* name) {
      Statx process{};
      if (::statx(directory, name, 0, STATX_UID, &process) == 0 && process.stx_uid == user) {
        found.push_back(*as_number(name));
      }
      return false;
    });
    return {std::move(found), error};
  }

  Result<std::string> process_name(int process) override {
    Result<std::string> name = read_file(in_proc(process, "comm"));
    if (name.ok() && name.value.ends_with('\n')) {
      name.value.pop_back();
    }
    return name;
  }

  Result<FileDescriptor> open_held_file(int process, const FileId& file) override {
    const std::string descriptors = in_proc(process, "fd");
    Result<FileDescriptor> result{{}, ENOENT};
    if (process == process_id()) {
      // The low ones by their numbers: the first listing of a process's descriptors takes ten times as long.
      for (int number = 0; number < kLowDescriptors; ++number) {
        const auto open_again = [&] { return open(descriptors + "/" + std::to_string(number)); };
        if (opens_held(file, number, "", AT_EMPTY_PATH, open_again, result)) {
          return result;
        }
      }
    }
    const int error = for_each_number(descriptors, [&](int directory, const char* name) {
      return opens_held(file, directory, name, 0, [&] { return open_in(directory, name); }, result);
    });
    if (error != 0) {
      return {{}, error};
    }
    return result;
  }

  Result<Pipe> open_pipe() override {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) == -1) {
      return {{}, errno};
    }
    return {{FileDescriptor(ends[0]), FileDescriptor(ends[1])}};
  }

  Result<std::vector<int>> wait_for_hangup(std::span<const int> pipes, std::chrono::milliseconds at_most) override {
    std::vector<pollfd> asked;
    asked.reserve(pipes.size());
    for (const int pipe : pipes) {
      asked.push_back({pipe, 0, 0});
    }
    if (uninterrupted([&] { return ::poll(asked.data(), asked.size(), static_cast<int>(at_most.count())); }) == -1) {
      return {{}, errno};
    }
    std::vector<int> hung_up;
    for (const pollfd& answer : asked) {
      if ((static_cast<unsigned>(answer.revents) & static_cast<unsigned>(POLLHUP)) != 0) {
        hung_up.push_back(answer.fd);
      }
    }
    return {std::move(hung_up)};
  }

  void block_signals() noexcept override {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
  }

  void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)()) override {
    ::pthread_atfork(before, in_parent, in_child);
  }

 private:
  static int populate_pages(std::span<const std::byte> range) {
    while (!range.empty()) {
      const std::span<const std::byte> piece = range.first(std::min(range.size(), kPopulatePiece));
      if (uninterrupted([&] { return advise(piece, kMadvisePopulateRead); }) == -1) {
        return errno;
      }
      range = range.subspan(piece.size());
    }
    return 0;
  }

  // One page in each window, and the kernel maps those around it: three fifths of the time.
  [[nodiscard]] int populate_windows(std::span<const std::byte> range) const {
    while (!range.empty()) {
      if (const int error = populate_pages(range.first(page_size_)); error != 0) {
        return error;
      }
      const std::size_t into_window = std::bit_cast<std::uintptr_t>(range.data()) % kFaultWindow;
      range = range.subspan(std::min(range.size(), kFaultWindow - into_window));
    }
    return 0;
  }

  // The pages that are not in the page table; all, where the kernel does not tell (PAGEMAP_SCAN, Linux 6.7).
  static int populate_absent(std::span<const std::byte> range) {
    const Result<FileDescriptor> pagemap = open_in(AT_FDCWD, "/proc/self/pagemap");
    const auto begin = std::bit_cast<std::uintptr_t>(range.data());
    const std::uintptr_t end = begin + range.size();
    PageRegions regions;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel fills it.
    for (std::uintptr_t at = begin; at < end;) {
      PagemapScan scan{};
      scan.category_inverted = kPageIsPresent;
      scan.category_mask = kPageIsPresent;
      scan.return_mask = kPageIsPresent;
      const Result<std::span<const PageRegion>> absent = scan_pages(pagemap.value.number(), at, end, scan, regions);
      if (!absent.ok() || scan.walk_end <= at) {
        return populate_pages(range.subspan(at - begin));
      }
      for (const PageRegion& region : absent.value) {
        if (const int error = populate_pages(range.subspan(region.start - begin, region.end - region.start));
            error != 0) {
          return error;
        }
      }
      at = scan.walk_end;
    }
    return 0;
  }

  // Whether the descriptor that `directory`, `name` and `flags` name (as for statx) is open on the file, and `open`
  // opens that file again; `result` is what came of it.
  template <typename Open>
  bool opens_held(const FileId& file, int directory, const char* name, int flags, Open open,
                  Result<FileDescriptor>& result) {
    Statx held{};
    // AT_STATX_DONT_SYNC: some of its files may be on a server that takes long to answer.
    if (::statx(directory, name, AT_STATX_DONT_SYNC | flags, STATX_TYPE | STATX_INO, &held) == -1) {
      if (errno != EBADF && errno != ENOENT) {  // It is not one that has been closed.
        result.error = errno;
      }
      return false;
    }
    if (file_id(held) != file) {
      return false;
    }
    if (!S_ISREG(held.stx_mode)) {
      result.error = ENODEV;  // To open a device may set something off.
      return false;
    }
    result = open();
    if (!result.ok()) {
      return false;
    }
    // The process may have put another file in that place since.
    const Result<FileStatus> opened = status(result.value.number());
    if (opened.ok() && opened.value.id == file) {
      return true;
    }
    result = {{}, ENOENT};
    return false;
  }

  static int error_of(int result) { return result == -1 ? errno : 0; }

  static Result<std::byte*> mapped(void* address) {
    if (address ==
        MAP_FAILED) {  // NOLINT(cppcoreguidelines-pro-type-cstyle-cast,performance-no-int-to-ptr): the macro's
      return {nullptr, errno};
    }
    return {static_cast<std::byte*>(address)};
  }

  static int advise(std::span<const std::byte> range, int advice) {
    // madvise() takes a pointer to mutable memory whatever the advice.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast)
    return ::madvise(const_cast<std::byte*>(range.data()), range.size(), advice);
  }

  // What `open` opened; it is repeated when a signal interrupts it.
  template <typename Open>
  static Result<FileDescriptor> descriptor_of(Open open) {
    const int number = uninterrupted(open);
    if (number == -1) {
      return {{}, errno};
    }
    return {FileDescriptor(number)};
  }

  static Result<FileDescriptor> open_in(int directory, const char* path) {
    return descriptor_of([&] { return ::openat(directory, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY); });
  }

  // With the permissions that the process's umask leaves.
  static Result<FileDescriptor> created(const std::string& path, int flags) {
    constexpr mode_t everybody = 0666;
    return descriptor_of([&] { return ::open(path.c_str(), flags, everybody); });
  }

  std::size_t page_size_ = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
};

}  // namespace

// Not repeated when a signal interrupts it: the descriptor is gone by then, and its number may be another file's.
void FileDescriptor::close(int number) noexcept { ::close(number); }

System& System::real() noexcept {
  static Immortal<LinuxSystem> system;
  return system.get();
}

}  // namespace zerocopy
