// Any use of Views of the same shared bytes: each View shows those bytes and its own writes, tells what it wrote, and
// the shared bytes stay what they are. Calls to the operating system fail on the way.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attempt.h"
#include "forwarding_system.h"
#include "input.h"
#include "system/page_range.h"
#include "zerocopy/error.h"
#include "zerocopy/view.h"

namespace zerocopy {
namespace {

using testing::tried;

constexpr std::size_t kPages = 8;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

// Fails those of the next calls that are told by a bit each.
class Fails final : public testing::ForwardingSystem {
 public:
  void next(std::uint64_t failing) { failing_ = failing; }

  Result<std::byte*> reserve(std::size_t length) override {
    return fails() ? Result<std::byte*>{nullptr, ENOMEM} : ForwardingSystem::reserve(length);
  }
  Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::size_t length,
                                 std::byte* address) override {
    return fails() ? Result<std::byte*>{nullptr, ENOMEM}
                   : ForwardingSystem::map_private(descriptor, offset, length, address);
  }
  int populate(std::span<const std::byte> range) override {
    return fails() ? EINVAL : ForwardingSystem::populate(range);
  }
  int discard(std::span<std::byte> range) override { return fails() ? EAGAIN : ForwardingSystem::discard(range); }
  Result<Mapping> query_mapping(int maps, std::uintptr_t address) override {
    return fails() ? Result<Mapping>{{}, ENOTTY} : ForwardingSystem::query_mapping(maps, address);
  }
  Result<PageScan> scan_own_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    return fails() ? Result<PageScan>{{}, ENOTTY} : ForwardingSystem::scan_own_pages(pagemap, begin, end);
  }
  int watch_writes(int watch, std::span<std::byte> range) override {
    return fails() ? ENOMEM : ForwardingSystem::watch_writes(watch, range);
  }
  Result<WrittenPages> scan_written_pages(int pagemap, std::uintptr_t begin, std::uintptr_t end) override {
    return fails() ? Result<WrittenPages>{{}, EIO} : ForwardingSystem::scan_written_pages(pagemap, begin, end);
  }
  Result<FileDescriptor> open(const std::string& path) override {
    return fails() ? Result<FileDescriptor>{{}, EMFILE} : ForwardingSystem::open(path);
  }
  Result<std::size_t> read_at(int descriptor, std::span<std::byte> into, std::uint64_t offset) override {
    return fails() ? Result<std::size_t>{0, EIO} : ForwardingSystem::read_at(descriptor, into, offset);
  }
  Result<FileDescriptor> open_held_file(int process, const FileId& file) override {
    return fails() ? Result<FileDescriptor>{{}, EACCES} : ForwardingSystem::open_held_file(process, file);
  }

 private:
  bool fails() { return (std::exchange(failing_, failing_ >> 1U) & 1U) != 0; }

  std::uint64_t failing_ = 0;
};

// Shared memory between two pieces of private memory: segments lie in one of the three, or across.
class Source {
 public:
  Source() {
    const std::size_t third = kPages * page_;
    bytes_ = {
        static_cast<std::byte*>(::mmap(nullptr, 3 * third, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        3 * third};
    const int file = ::memfd_create("source", MFD_CLOEXEC);
    require(::ftruncate(file, static_cast<off_t>(third)) == 0);
    require(::mmap(bytes_.data() + third, third, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) !=
            MAP_FAILED);
    for (std::size_t at = 0; at < bytes_.size(); ++at) {
      bytes_[at] = static_cast<std::byte>((at * 31U + at / page_) & 0xFFU);
    }
    original_.assign(bytes_.begin(), bytes_.end());
  }

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::size_t page() const { return page_; }
  void require_unchanged() const { require(std::ranges::equal(bytes_, original_)); }

 private:
  std::size_t page_ = System::real().page_size();
  std::span<std::byte> bytes_;
  std::vector<std::byte> original_;
};

// A View, and what its bytes should be.
struct Watched {
  std::vector<std::span<const std::byte>> segments;
  std::vector<std::byte> expected;  // Of all that the source has, where segments overlap as well.
  std::unique_ptr<View> view;
};

class Game {
 public:
  Game(const Source& source, fuzz::Input input) : source_(source), input_(input) {}

  void play() {
    for (int steps = 0; steps < 64 && !input_.empty(); ++steps) {
      const std::uint8_t step = input_.byte();
      Watched& one = views_.at(step / 16U % views_.size());
      system_.next((step & 128U) != 0 ? input_.word() : 0);
      if (!one.view) {
        open(one);
      } else {
        use(one, step % 8U);
      }
    }
    views_ = {};
    source_.require_unchanged();
  }

 private:
  void open(Watched& one) {
    one.segments.clear();
    for (std::size_t count = input_.byte() % 5U; count > 0; --count) {
      const std::size_t begin = input_.word() % source_.bytes().size();
      const std::size_t length =
          std::min<std::size_t>(input_.word() % (4 * source_.page()), source_.bytes().size() - begin);
      one.segments.emplace_back(source_.bytes().subspan(begin, length));
    }
    one.expected.assign(source_.bytes().begin(), source_.bytes().end());
    tried([&] { one.view = std::make_unique<View>(one.segments, nullptr, system_); });
    check(one);
  }

  void use(Watched& one, unsigned what) {
    View& view = *one.view;
    switch (what) {
      case 0:
        one.view = nullptr;
        return;
      case 1:
        // One that fails has brought back some pages and not others: once more, with nothing to fail.
        if (!tried([&] { view.reset(); })) {
          system_.next(0);
          require(tried([&] { view.reset(); }));
        }
        one.expected.assign(source_.bytes().begin(), source_.bytes().end());
        break;
      case 2:
        tried([&] { view.watch_writes(); });
        break;
      case 3:
        tried([&] { view.prefault(1 + input_.byte() % 2U); });
        view.wait_prefault();
        break;
      case 4:
        system_.next(0);
        require(view.diverged_bytes() % source_.page() == 0);
        break;
      case 5:
        one.view = std::make_unique<View>(std::move(view));
        break;
      default:
        write(one);
    }
    check(one);
  }

  // To one segment alone: those that overlap show it too, which nothing is known of here.
  void write(Watched& one) {
    if (one.segments.empty()) {
      return;
    }
    const std::size_t index = input_.byte() % one.segments.size();
    const std::span<std::byte> bytes = one.view->segment(index);
    if (bytes.empty()) {
      return;
    }
    const std::size_t at = input_.word() % bytes.size();
    const std::size_t in_source = static_cast<std::size_t>(one.segments[index].data() - source_.bytes().data()) + at;
    for (std::size_t other = 0; other < one.segments.size(); ++other) {
      const auto begin = static_cast<std::size_t>(one.segments[other].data() - source_.bytes().data());
      if (other != index && begin <= in_source && in_source < begin + one.segments[other].size()) {
        return;
      }
    }
    bytes[at] ^= std::byte{0x5A};
    one.expected[in_source] = bytes[at];
  }

  void check(const Watched& one) const {
    if (!one.view) {
      return;
    }
    for (std::size_t index = 0; index < one.segments.size(); ++index) {
      const auto begin = static_cast<std::size_t>(one.segments[index].data() - source_.bytes().data());
      const std::span<std::byte> bytes = one.view->segment(index);
      require(bytes.size() == one.segments[index].size());
      require(bytes.empty() || std::memcmp(bytes.data(), one.expected.data() + begin, bytes.size()) == 0);
    }
  }

  const Source& source_;
  fuzz::Input input_;
  Fails system_;
  std::array<Watched, 2> views_;
};

}  // namespace
}  // namespace zerocopy

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const zerocopy::Source source;
  zerocopy::Game(source, {data, size}).play();
  return 0;
}
