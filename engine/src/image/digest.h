// Digests of bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace zerocopy {

// The XXH3-128 (seed 0) of some bytes in its canonical, big-endian form: 32 lower-case hexadecimal digits. It finds
// accidents, not forgeries.
std::string digest_of(std::span<const std::byte> bytes);

// Whether a text has the form of a digest.
bool is_digest(std::string_view text) noexcept;

}  // namespace zerocopy
