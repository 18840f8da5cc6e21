// The operating system, with a place to make it fail.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "system/system.h"

namespace zerocopy::testing {

// Passes every call on. Tests override those that are to fail or to be watched.
class ForwardingSystem : public System {
 public:
  [[nodiscard]] std::size_t page_size() const noexcept override { return real().page_size(); }
  Result<std::byte*> reserve(std::size_t length) override { return real().reserve(length); }
  Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::size_t length,
                                 std::byte* address) override {
    return real().map_private(descriptor, offset, length, address);
  }
  Result<std::byte*> map_shared(int descriptor, std::size_t length) override {
    return real().map_shared(descriptor, length);
  }
  int unmap(std::span<std::byte> range) override { return real().unmap(range); }
  int populate(std::span<const std::byte> range) override { return real().populate(range); }
  void touch(std::span<const std::byte> range) override { real().touch(range); }
  int discard(std::span<std::byte> range) override { return real().discard(range); }
  Result<Mapping> query_mapping(int maps, std::uintptr_t address) override {
    return real().query_mapping(maps, address);
  }
  Result<PageScan> scan_own_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    return real().scan_own_pages(pagemap, begin, end);
  }
  Result<FileDescriptor> open_write_watch() override { return real().open_write_watch(); }
  int watch_writes(int watch, std::span<std::byte> range) override { return real().watch_writes(watch, range); }
  Result<WrittenPages> scan_written_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    return real().scan_written_pages(pagemap, begin, end);
  }
  Result<FileDescriptor> open(const std::string& path) override { return real().open(path); }
  Result<FileDescriptor> create_unnamed(const std::string& directory) override {
    return real().create_unnamed(directory);
  }
  Result<FileDescriptor> create(const std::string& path) override { return real().create(path); }
  int set_permissions(int descriptor, unsigned permissions) override {
    return real().set_permissions(descriptor, permissions);
  }
  Result<std::size_t> write_at(int descriptor, std::span<const std::span<const std::byte>> bytes,
                               std::uint64_t offset) override {
    return real().write_at(descriptor, bytes, offset);
  }
  int sync(int descriptor) override { return real().sync(descriptor); }
  int link(int descriptor, const std::string& path) override { return real().link(descriptor, path); }
  int rename(const std::string& from, const std::string& to) override { return real().rename(from, to); }
  int remove(const std::string& path) override { return real().remove(path); }
  Result<FileStatus> status(int descriptor) override { return real().status(descriptor); }
  Result<std::size_t> read_at(int descriptor, std::span<std::byte> into, std::uint64_t offset) override {
    return real().read_at(descriptor, into, offset);
  }
  Result<std::string> read_file(const std::string& path) override { return real().read_file(path); }
  Result<std::vector<std::string>> names_in(const std::string& directory) override {
    return real().names_in(directory);
  }
  [[nodiscard]] int process_id() const noexcept override { return real().process_id(); }
  [[nodiscard]] int parent_process_id() const noexcept override { return real().parent_process_id(); }
  Result<std::vector<int>> processes() override { return real().processes(); }
  Result<std::string> process_name(int process) override { return real().process_name(process); }
  Result<FileDescriptor> open_held_file(int process, const FileId& file) override {
    return real().open_held_file(process, file);
  }
  void block_signals() noexcept override { real().block_signals(); }
  Result<Pipe> open_pipe() override { return real().open_pipe(); }
  Result<std::vector<int>> wait_for_hangup(std::span<const int> pipes, std::chrono::milliseconds at_most) override {
    return real().wait_for_hangup(pipes, at_most);
  }
  void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)()) override {
    real().at_fork(before, in_parent, in_child);
  }
};

// A kernel of before 5.14: none of the calls that the engine likes best.
class OldKernel : public ForwardingSystem {
 public:
  int populate(std::span<const std::byte> /*range*/) override { return EINVAL; }
  Result<Mapping> query_mapping(int /*maps*/, std::uintptr_t /*address*/) override { return {{}, ENOTTY}; }
  Result<PageScan> scan_own_pages(int /*pagemap*/, std::uintptr_t /*begin*/, std::uintptr_t /*end*/) override {
    return {{}, ENOTTY};
  }
  Result<FileDescriptor> open_write_watch() override { return {{}, ENOSYS}; }
};

}  // namespace zerocopy::testing
