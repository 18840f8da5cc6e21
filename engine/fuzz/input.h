// The fuzzer's bytes as the numbers that a target needs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace zerocopy::fuzz {

// Takes numbers from the front of the bytes; 0 when there are none left.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  [[nodiscard]] bool empty() const { return rest_.empty(); }

  std::uint8_t byte() { return number<std::uint8_t>(); }
  std::uint64_t word() { return number<std::uint64_t>(); }

  // Mostly small or close to what overflows, now and then any.
  std::int64_t interesting() {
    const std::uint8_t kind = byte();
    const std::int64_t small = std::int64_t{byte()} - 128;
    switch (kind % 8U) {
      case 0:
        return static_cast<std::int64_t>(word());
      case 1:
        return static_cast<std::int64_t>(std::uint64_t{1} << (kind / 8U)) + small;
      case 2:
        return static_cast<std::int64_t>((std::uint64_t{1} << 63U) + static_cast<std::uint64_t>(small));
      default:
        return small;
    }
  }

 private:
  template <typename Number>
  Number number() {
    Number value = 0;
    const std::size_t taken = std::min(rest_.size(), sizeof value);
    std::memcpy(&value, rest_.data(), taken);
    rest_ = rest_.subspan(taken);
    return value;
  }

  std::span<const std::uint8_t> rest_;
};

}  // namespace zerocopy::fuzz
