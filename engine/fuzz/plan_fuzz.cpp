// Whatever the operating system says of the memory under some segments, the plan maps each of them once and whole from
// where it lies in its file, or copies it, or refuses it as the caller's mistake.
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "forwarding_system.h"
#include "input.h"
#include "window/mapping.h"
#include "window/plan.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

constexpr std::size_t kPage = 4096;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

// Some mappings of some files.
class Described final : public testing::ForwardingSystem {
 public:
  explicit Described(fuzz::Input& input) : by_query_((input.byte() & 1U) != 0) {
    for (std::size_t count = input.byte() % 8U; count > 0; --count) {
      const std::uint8_t kind = input.byte();
      Mapping mapping{address(input),    address(input),    input.word(),
                      {0, 1, kind % 4U}, (kind & 16U) == 0, (kind & 32U) == 0};
      if ((kind & 64U) == 0) {  // As kernels have them, so that more than the refusals is reached.
        mapping.end = mapping.begin + (1U + mapping.end % 8U) * kPage;
        mapping.offset = mapping.offset % 8U * kPage;
      }
      mappings_.push_back(mapping);
    }
    for (std::uint64_t& size : sizes_) {
      size = (input.byte() & 1U) != 0 ? input.word() : input.byte() * std::uint64_t{512};
    }
  }

  static std::uintptr_t address(fuzz::Input& input) {
    const std::uint8_t kind = input.byte();
    return (kind & 128U) != 0 ? input.word() : (1U + kind % 32U) * kPage;
  }

  [[nodiscard]] std::size_t page_size() const noexcept override { return kPage; }
  Result<FileDescriptor> open(const std::string& /*path*/) override {
    return by_query_ ? ForwardingSystem::open("/dev/null") : Result<FileDescriptor>{{}, EACCES};
  }
  Result<Mapping> query_mapping(int /*maps*/, std::uintptr_t address) override {
    for (const Mapping& mapping : mappings_) {
      if (mapping.begin <= address + kPage) {  // Perhaps one beside the address.
        return {mapping};
      }
    }
    return {{}, ENOENT};
  }
  Result<std::string> read_file(const std::string& /*path*/) override {
    std::string text;
    for (const Mapping& mapping : mappings_) {
      text += in_hex(mapping.begin) + "-" + in_hex(mapping.end) + (mapping.readable ? " r--" : " ---") +
              (mapping.shared ? "s " : "p ") + in_hex(mapping.offset) + " 00:01 " + std::to_string(mapping.file.inode) +
              "\n";
    }
    return {std::move(text)};
  }
  Result<FileDescriptor> open_held_file(int process, const FileId& file) override {
    if (process != process_id() || file.inode >= sizes_.size()) {
      return {{}, ENOENT};
    }
    last_ = file.inode;
    return ForwardingSystem::open("/dev/null");
  }
  Result<std::vector<int>> processes() override { return {{}, EACCES}; }
  Result<FileStatus> status(int /*descriptor*/) override {
    return {FileStatus{{0, 1, last_}, sizes_.at(last_), sizes_.at(last_) % 7U == 6U}};
  }

  // Whether `length` bytes from `at` on are said to be the file's from `offset` on.
  [[nodiscard]] bool are(std::uintptr_t at, const FileId& file, std::uint64_t offset, std::size_t length) const {
    const std::uint64_t size = sizes_.at(file.inode);
    require(at % kPage == 0 && length % kPage == 0 && length != 0 && offset % kPage == 0);
    require(offset / kPage + length / kPage <= size / kPage + (size % kPage != 0 ? 1 : 0));
    for (std::uintptr_t page = at; page < at + length; page += kPage) {
      bool found = false;
      for (const Mapping& mapping : mappings_) {
        found = found || (mapping.begin <= page && page < mapping.end && mapping.shared && mapping.readable &&
                          mapping.file == file && mapping.offset + (page - mapping.begin) == offset + (page - at));
      }
      if (!found) {
        return false;
      }
    }
    return true;
  }

 private:
  static std::string in_hex(std::uint64_t number) {
    std::array<char, 2 * sizeof number> digits{};
    const auto [end, error] = std::to_chars(digits.begin(), digits.end(), number, 16);
    return {digits.begin(), end};
  }

  bool by_query_;
  std::vector<Mapping> mappings_;
  std::array<std::uint64_t, 4> sizes_{};
  std::uint64_t last_ = 0;
};

void check(const Plan& plan, const std::vector<std::span<const std::byte>>& segments, const Described& system) {
  std::multiset<std::size_t> seen(plan.copied.begin(), plan.copied.end());
  require(plan.copied.empty() == plan.reason.empty());
  for (const PlannedRegion& region : plan.regions) {
    require(region.source.begin < region.source.end);
    std::uintptr_t at = region.source.begin;
    for (const FilePart& part : region.parts) {
      require(system.are(at, part.file->id(), part.offset, part.length));
      at += part.length;
    }
    require(at == region.source.end);
    for (const std::size_t index : region.segments) {
      const std::uintptr_t begin = address_of(segments.at(index).data());
      require(region.source.begin <= begin && begin + segments[index].size() <= region.source.end);
      seen.insert(index);
    }
  }
  for (std::size_t index = 0; index < segments.size(); ++index) {
    require(seen.count(index) == (segments[index].empty() ? 0U : 1U));
  }
}

}  // namespace
}  // namespace zerocopy

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  zerocopy::fuzz::Input input(data, size);
  zerocopy::Described system(input);
  std::vector<std::span<const std::byte>> segments;
  for (std::size_t count = input.byte() % 6U; count > 0; --count) {
    const std::uintptr_t begin = zerocopy::Described::address(input) + input.byte();
    const std::uint8_t kind = input.byte();
    const std::size_t length = (kind & 128U) != 0 ? input.word() : kind * std::size_t{200};
    // Addresses that nothing may be read from: the plan does not.
    segments.emplace_back(std::bit_cast<const std::byte*>(begin), length);
  }
  try {
    zerocopy::check(zerocopy::make_plan(segments, system), segments, system);
  } catch (const zerocopy::Error& error) {
    zerocopy::require(error.code() == zerocopy::Error::Code::bad_segment ||
                      error.code() == zerocopy::Error::Code::unmapped_segment);
  }
  return 0;
}
