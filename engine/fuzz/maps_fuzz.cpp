// Whatever stands in /proc/self/maps is either refused or understood as proper mappings.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "window/mapping.h"
#include "zerocopy/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    std::uintptr_t end = 0;
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): libFuzzer's bytes are the parser's characters.
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    for (const zerocopy::Mapping& mapping : zerocopy::parse_maps(text)) {
      if (mapping.begin < end || mapping.begin >= mapping.end) {
        std::abort();
      }
      end = mapping.end;
    }
  } catch (const zerocopy::Error& error) {
    if (error.code() != zerocopy::Error::Code::malformed_maps) {
      std::abort();
    }
  }
  return 0;
}
