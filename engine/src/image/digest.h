// Digests of bytes.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace zerocopy {

// The XXH3-128 (seed 0) of some bytes in its canonical, big-endian form: 32 lower-case hexadecimal digits. It finds
// accidents, not forgeries.
std::string digest_of(std::span<const std::byte> bytes);

// The same of bytes that come in pieces, in their order. Like any value, for one thread at a time.
class Digester {
 public:
  Digester();
  Digester(Digester&&) = delete;
  Digester& operator=(Digester&&) = delete;
  Digester(const Digester&) = delete;
  Digester& operator=(const Digester&) = delete;
  ~Digester();

  void add(std::span<const std::byte> bytes) noexcept;

  // The digest of all bytes since the last call.
  std::string take();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Whether a text has the form of a digest.
bool is_digest(std::string_view text) noexcept;

}  // namespace zerocopy
