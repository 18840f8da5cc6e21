#include "window/mapping.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <system_error>

#include "system/system.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

// Takes one line of /proc/PID/maps apart, from left to right.
class Line {
 public:
  explicit Line(std::string_view text) : whole_(text), rest_(text) {}

  template <typename Number>
  Number number(int base) {
    Number value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value, base);
    if (error != std::errc{}) {
      refuse();
    }
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return value;
  }

  void skip(char expected) {
    if (one_of({&expected, 1}) != expected) {
      refuse();
    }
  }

  char one_of(std::string_view allowed) {
    if (rest_.empty() || allowed.find(rest_.front()) == std::string_view::npos) {
      refuse();
    }
    const char found = rest_.front();
    rest_.remove_prefix(1);
    return found;
  }

  [[nodiscard]] bool at_end() const { return rest_.empty(); }

  [[noreturn]] void refuse() const {
    constexpr std::size_t shown = 200;
    throw Error(Error::Code::malformed_maps,
                "/proc/self/maps has a line that is not understood: \"" + std::string(whole_.substr(0, shown)) + "\"");
  }

 private:
  std::string_view whole_;
  std::string_view rest_;
};

Mapping parse_line(std::string_view text) {
  Line line(text);
  Mapping mapping;
  mapping.begin = line.number<std::uintptr_t>(16);
  line.skip('-');
  mapping.end = line.number<std::uintptr_t>(16);
  line.skip(' ');
  mapping.readable = line.one_of("r-") == 'r';
  line.one_of("w-");
  line.one_of("x-");
  mapping.shared = line.one_of("sp") == 's';
  line.skip(' ');
  mapping.offset = line.number<std::uint64_t>(16);
  line.skip(' ');
  mapping.file.device_major = line.number<std::uint32_t>(16);
  line.skip(':');
  mapping.file.device_minor = line.number<std::uint32_t>(16);
  line.skip(' ');
  mapping.file.inode = line.number<std::uint64_t>(10);
  if (!line.at_end()) {
    line.skip(' ');  // The name follows. Anything may be in it, and nothing is made of it.
  }
  if (mapping.begin >= mapping.end) {
    line.refuse();
  }
  return mapping;
}

}  // namespace

std::vector<Mapping> parse_maps(std::string_view text) {
  std::vector<Mapping> mappings;
  while (!text.empty()) {
    const std::size_t length = text.find('\n');
    const std::string_view line = text.substr(0, length);
    // Without its end a line may lack some digits of its last number.
    if (length == std::string_view::npos) {
      Line(line).refuse();
    }
    const Mapping mapping = parse_line(line);
    if (!mappings.empty() && mapping.begin < mappings.back().end) {
      Line(line).refuse();
    }
    mappings.push_back(mapping);
    text.remove_prefix(length + 1);
  }
  return mappings;
}

Mappings::Mappings(System& system) : system_(&system), maps_(system.open("/proc/self/maps").value) {}

std::optional<Mapping> Mappings::find(std::uintptr_t address) {
  if (const std::optional<Mapping> mapping = known(address); mapping || complete_) {
    return mapping;
  }
  if (maps_.number() != -1) {
    const Result<Mapping> asked = system_->query_mapping(maps_.number(), address);
    if (asked.ok() && asked.value.begin <= address && address < asked.value.end) {
      known_.insert(std::ranges::upper_bound(known_, address, {}, &Mapping::begin), asked.value);
      return asked.value;
    }
    if (asked.error == ENOENT) {
      return std::nullopt;
    }
  }
  const Result<std::string> text = system_->read_file("/proc/self/maps");
  if (!text.ok()) {
    throw Error(Error::Code::system_call,
                "/proc/self/maps cannot be read: " + std::generic_category().message(text.error) +
                    "; mount a proc file system on /proc, of this process's own PID namespace",
                text.error);
  }
  known_ = parse_maps(text.value);
  complete_ = true;
  return known(address);
}

std::optional<Mapping> Mappings::known(std::uintptr_t address) const {
  const auto after = std::ranges::upper_bound(known_, address, {}, &Mapping::begin);
  if (after == known_.begin() || address >= std::prev(after)->end) {
    return std::nullopt;
  }
  return *std::prev(after);
}

}  // namespace zerocopy
