// The door to operating systems for which nobody has written one yet: it stays shut, so that every View is a private
// copy.
#include <cerrno>

#include "system/immortal.h"
#include "system/system.h"

namespace zerocopy {
namespace {

class PortableSystem final : public System {
 public:
  [[nodiscard]] std::size_t page_size() const noexcept override { return 4096; }
  Result<std::byte*> reserve(std::size_t /*length*/) override { return {nullptr, ENOTSUP}; }
  Result<std::byte*> map_private(int /*descriptor*/, std::uint64_t /*offset*/, std::size_t /*length*/,
                                 std::byte* /*address*/) override {
    return {nullptr, ENOTSUP};
  }
  Result<std::byte*> map_shared(int /*descriptor*/, std::size_t /*length*/) override { return {nullptr, ENOTSUP}; }
  int unmap(std::span<std::byte> /*range*/) override { return ENOTSUP; }
  int populate(std::span<const std::byte> /*range*/) override { return ENOTSUP; }
  void touch(std::span<const std::byte> /*range*/) override {}
  int discard(std::span<std::byte> /*range*/) override { return ENOTSUP; }
  Result<Mapping> query_mapping(int /*maps*/, std::uintptr_t /*address*/) override { return {{}, ENOTSUP}; }
  Result<PageScan> scan_own_pages(int /*pagemap*/, std::uintptr_t /*begin*/, std::uintptr_t /*end*/) override {
    return {{}, ENOTSUP};
  }
  Result<FileDescriptor> open_write_watch() override { return {{}, ENOTSUP}; }
  int watch_writes(int /*watch*/, std::span<std::byte> /*range*/) override { return ENOTSUP; }
  Result<WrittenPages> scan_written_pages(int /*pagemap*/, std::uintptr_t /*begin*/, std::uintptr_t /*end*/) override {
    return {{}, ENOTSUP};
  }
  Result<FileDescriptor> open(const std::string& /*path*/) override { return {{}, ENOTSUP}; }
  Result<FileDescriptor> create_unnamed(const std::string& /*directory*/) override { return {{}, ENOTSUP}; }
  Result<FileDescriptor> create(const std::string& /*path*/) override { return {{}, ENOTSUP}; }
  int set_permissions(int /*descriptor*/, unsigned /*permissions*/) override { return ENOTSUP; }
  Result<std::size_t> write_at(int /*descriptor*/, std::span<const std::span<const std::byte>> /*bytes*/,
                               std::uint64_t /*offset*/) override {
    return {0, ENOTSUP};
  }
  int sync(int /*descriptor*/) override { return ENOTSUP; }
  int link(int /*descriptor*/, const std::string& /*path*/) override { return ENOTSUP; }
  int rename(const std::string& /*from*/, const std::string& /*to*/) override { return ENOTSUP; }
  int remove(const std::string& /*path*/) override { return ENOTSUP; }
  Result<FileStatus> status(int /*descriptor*/) override { return {{}, ENOTSUP}; }
  Result<std::size_t> read_at(int /*descriptor*/, std::span<std::byte> /*into*/, std::uint64_t /*offset*/) override {
    return {0, ENOTSUP};
  }
  Result<std::string> read_file(const std::string& /*path*/) override { return {{}, ENOTSUP}; }
  Result<std::vector<std::string>> names_in(const std::string& /*directory*/) override { return {{}, ENOTSUP}; }
  [[nodiscard]] int process_id() const noexcept override { return 0; }
  [[nodiscard]] int parent_process_id() const noexcept override { return 0; }
  Result<std::vector<int>> processes() override { return {{}, ENOTSUP}; }
  Result<std::string> process_name(int /*process*/) override { return {{}, ENOTSUP}; }
  Result<FileDescriptor> open_held_file(int /*process*/, const FileId& /*file*/) override { return {{}, ENOTSUP}; }
  Result<Pipe> open_pipe() override { return {{}, ENOTSUP}; }
  Result<std::vector<int>> wait_for_hangup(std::span<const int> /*pipes*/,
                                           std::chrono::milliseconds /*at_most*/) override {
    return {{}, ENOTSUP};
  }
  void block_signals() noexcept override {}
  void at_fork(void (* /*before*/)(), void (* /*in_parent*/)(), void (* /*in_child*/)()) override {}
};

}  // namespace

void FileDescriptor::close(int /*number*/) noexcept {}  // None was ever opened.

System& System::real() noexcept {
  static Immortal<PortableSystem> system;
  return system.get();
}

}  // namespace zerocopy
