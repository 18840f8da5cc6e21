// Whatever the kernel says of pages, what it is not known to say is refused, and no byte outside of the range that was
// asked about is counted or given back.
#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "forwarding_system.h"
#include "input.h"
#include "system/page_range.h"
#include "watch/pagemap.h"
#include "watch/write_watch.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

constexpr std::size_t kPages = 16;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

class Says final : public testing::ForwardingSystem {
 public:
  Says(fuzz::Input& input, std::span<std::byte> pages) : input_(&input), pages_(pages) {}

  void begin() { asked_ = 0; }

  Result<FileDescriptor> open(const std::string& /*path*/) override { return ForwardingSystem::open("/dev/null"); }
  Result<FileDescriptor> open_write_watch() override { return ForwardingSystem::open("/dev/null"); }
  int watch_writes(int /*watch*/, std::span<std::byte> range) override { return made_on(range); }
  int discard(std::span<std::byte> range) override { return made_on(range); }
  Result<PageScan> scan_own_pages(int /*pagemap*/, std::uintptr_t begin, std::uintptr_t end) override {
    if (is_at_end()) {
      return {{end, 0}};
    }
    return {{near(begin), input_->byte() % 2U == 0 ? page_size() : input_->word()}, input_->byte() % 8U == 0 ? EIO : 0};
  }
  Result<WrittenPages> scan_written_pages(int /*pagemap*/, std::uintptr_t begin, std::uintptr_t end) override {
    WrittenPages found{is_at_end() ? end : near(begin), {}};
    for (std::size_t count = input_->byte() % 4U; count > 0; --count) {
      const std::uintptr_t first = near(begin);
      found.ranges.emplace_back(first, input_->byte() % 4U != 0 ? first + page_size() : near(first));
    }
    return {std::move(found)};
  }
  Result<std::size_t> read_at(int /*descriptor*/, std::span<std::byte> into, std::uint64_t /*offset*/) override {
    if (is_at_end()) {
      return {0, EIO};
    }
    for (std::byte& byte : into) {
      byte = static_cast<std::byte>(input_->byte());
    }
    return {input_->byte() % 4U != 0 ? into.size() : input_->word(), 0};
  }

 private:
  // Answers end: a kernel that goes on for ever is not what is looked for.
  bool is_at_end() { return input_->empty() || ++asked_ > 64; }

  std::uintptr_t near(std::uintptr_t address) {
    const std::uint8_t kind = input_->byte();
    return (kind & 128U) != 0 ? input_->word() : address + (kind % 20U) * page_size() - (kind % 3U) * page_size();
  }

  int made_on(std::span<std::byte> range) {
    const std::uintptr_t begin = address_of(pages_.data());
    const std::uintptr_t at = address_of(range.data());
    require(begin <= at && at <= begin + pages_.size() && range.size() <= begin + pages_.size() - at);
    return input_->byte() % 16U == 15U ? EINVAL : 0;
  }

  fuzz::Input* input_;
  std::span<std::byte> pages_;
  int asked_ = 0;
};

}  // namespace
}  // namespace zerocopy

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::size_t length = zerocopy::kPages * zerocopy::System::real().page_size();
  static auto* const memory =
      static_cast<std::byte*>(::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const std::span<std::byte> pages(memory, length);
  zerocopy::fuzz::Input input(data, size);
  zerocopy::Says system(input, pages);
  const auto tried = [&](auto step) {
    system.begin();
    try {
      step();
    } catch (const zerocopy::Error& error) {
      zerocopy::require(error.code() == zerocopy::Error::Code::system_call);
    }
  };
  tried([&] { zerocopy::require(zerocopy::Pagemap(system).own_bytes(pages) <= length); });
  const std::unique_ptr<zerocopy::WriteWatch> watch = zerocopy::WriteWatch::begin({pages}, system);
  if (watch != nullptr) {
    tried([&] { zerocopy::require(watch->written_bytes() <= length); });
    tried([&] { watch->discard_written(); });
  }
  return 0;
}
