// Image files for tests: the golden ones, and temporary ones.
#pragma once

#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX's mkstemp().
#include <unistd.h>

#include <cstddef>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace zerocopy::testing {

inline std::string text_of(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    text += static_cast<char>(byte);
  }
  return text;
}

// A file in the folder for temporary ones, removed with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view content) {
    const int descriptor = ::mkstemp(path_.data());
    if (descriptor == -1 || ::close(descriptor) != 0) {
      throw std::runtime_error("no temporary file can be made");
    }
    std::ofstream(path_, std::ios::binary) << content;
  }
  TemporaryFile(TemporaryFile&&) = delete;
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { ::unlink(path_.c_str()); }

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/zerocopy_test_XXXXXX";
};

// Those that tests/image_samples.py makes; ZEROCOPY_GOLDEN is their folder.
inline std::string golden_path(const std::string& name) { return ZEROCOPY_GOLDEN "/" + name; }

inline std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace zerocopy::testing
