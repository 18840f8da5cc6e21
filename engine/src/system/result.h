// What comes back through a door: of the operating system, or of a driver.
#pragma once

namespace zerocopy {

// What a call gave: a value, or the error that says why there is none. Number is the type that errors have behind that
// door, and its zero is success. The operating system's are errno numbers.
template <typename T, typename Number = int>
struct Result {
  T value{};
  Number error{};

  [[nodiscard]] bool ok() const noexcept { return error == Number{}; }
};

}  // namespace zerocopy
