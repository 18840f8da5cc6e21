#include "image/digest.h"

#include <algorithm>

#define XXH_INLINE_ALL  // NOLINT(cppcoreguidelines-macro-usage): how the library is asked for, without linking to it.
#include <xxhash.h>

namespace zerocopy {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";

}  // namespace

std::string digest_of(std::span<const std::byte> bytes) {
  XXH128_canonical_t canonical;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled in the next line.
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  std::string text;
  text.reserve(2 * sizeof canonical.digest);
  for (const unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 0xFU];
  }
  return text;
}

bool is_digest(std::string_view text) noexcept {
  return text.size() == 2 * sizeof(XXH128_canonical_t) && text.find_first_not_of(kDigits) == std::string_view::npos;
}

}  // namespace zerocopy
