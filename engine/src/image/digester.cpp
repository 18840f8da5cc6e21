#include "image/digester.h"

#include <string_view>

#define XXH_INLINE_ALL  // NOLINT(cppcoreguidelines-macro-usage): how the library is asked for, without linking to it.
#include <xxhash.h>

namespace zerocopy {

struct Digester::State {
  XXH3_state_t value{};
};

Digester::Digester() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->value); }

Digester::~Digester() = default;

void Digester::add(std::span<const std::byte> bytes) noexcept {
  XXH3_128bits_update(&state_->value, bytes.data(), bytes.size());
}

std::string Digester::take() {
  constexpr std::string_view digits = "0123456789abcdef";
  XXH128_canonical_t canonical{};
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state_->value));
  XXH3_128bits_reset(&state_->value);
  std::string text;
  text.reserve(2 * sizeof canonical.digest);
  for (const unsigned char byte : canonical.digest) {
    text += digits[byte >> 4U];
    text += digits[byte & 0xFU];
  }
  return text;
}

}  // namespace zerocopy
