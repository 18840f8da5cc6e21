// An open file descriptor with one owner.
#pragma once

#include <utility>

namespace zerocopy {

// Owns a descriptor and closes it exactly once. Like any value, one object may be used by one thread at a time; the
// number may be used by any number of threads for as long as the object lives.
class FileDescriptor {
 public:
  FileDescriptor() noexcept = default;
  explicit FileDescriptor(int number) noexcept : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    const FileDescriptor old(std::exchange(number_, std::exchange(other.number_, -1)));
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (number_ != -1) {
      close(number_);
    }
  }

  // -1 when this owns no descriptor.
  [[nodiscard]] int number() const noexcept { return number_; }

 private:
  static void close(int number) noexcept;

  int number_ = -1;
};

}  // namespace zerocopy
