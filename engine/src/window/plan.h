// Which segments of a View can be shared, and how they are to be mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "system/page_range.h"
#include "window/region.h"
#include "zerocopy/error.h"

namespace zerocopy {

class System;

// Segments to be mapped in one piece: those whose pages touch or overlap.
struct PlannedRegion {
  PageRange source;             // The addresses whose content is to be mapped.
  std::vector<FilePart> parts;  // What lies there, in order.
  std::vector<std::size_t> segments;
};

struct Plan {
  std::vector<PlannedRegion> regions;
  std::vector<std::size_t> copied;  // Segments that cannot be mapped, and ...
  std::string reason;               // ... why not, for one of them; empty when all can.
  std::optional<Error::Code> code;  // ... the same as a code.
};

// Finds out what lies under the segments. Empty ones are in neither list. Maps nothing and reads no byte of them. May
// be called from any thread. Throws Error: bad_segment, unmapped_segment.
Plan make_plan(std::span<const std::span<const std::byte>> segments, System& system);

}  // namespace zerocopy
