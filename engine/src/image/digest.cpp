#include "image/digest.h"

#include <algorithm>

#define XXH_INLINE_ALL  // NOLINT(cppcoreguidelines-macro-usage): how the library is asked for, without linking to it.
#include <xxhash.h>

namespace zerocopy {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";

std::string as_text(const XXH128_hash_t& hash) {
  XXH128_canonical_t canonical;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled in the next line.
  XXH128_canonicalFromHash(&canonical, hash);
  std::string text;
  text.reserve(2 * sizeof canonical.digest);
  for (const unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 0xFU];
  }
  return text;
}

}  // namespace

std::string digest_of(std::span<const std::byte> bytes) { return as_text(XXH3_128bits(bytes.data(), bytes.size())); }

struct Digester::State {
  XXH3_state_t value{};
};

Digester::Digester() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->value); }

Digester::~Digester() = default;

void Digester::add(std::span<const std::byte> bytes) noexcept {
  XXH3_128bits_update(&state_->value, bytes.data(), bytes.size());
}

std::string Digester::take() {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->value);
  XXH3_128bits_reset(&state_->value);
  return as_text(hash);
}

bool is_digest(std::string_view text) noexcept {
  return text.size() == 2 * sizeof(XXH128_canonical_t) && text.find_first_not_of(kDigits) == std::string_view::npos;
}

}  // namespace zerocopy
