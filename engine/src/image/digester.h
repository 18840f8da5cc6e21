// The digest of bytes that come in pieces.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace zerocopy {

// Takes bytes in their order, and gives what digest_of() gives for all of them together. Begins anew when it has given
// one. Like any value, for one thread at a time.
class Digester {
 public:
  Digester();
  Digester(Digester&&) = delete;
  Digester& operator=(Digester&&) = delete;
  Digester(const Digester&) = delete;
  Digester& operator=(const Digester&) = delete;
  ~Digester();

  void add(std::span<const std::byte> bytes) noexcept;

  // The XXH3-128 (seed 0) of the bytes since the last call, as 32 lower-case hexadecimal digits.
  std::string take();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zerocopy
