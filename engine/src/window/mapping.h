// What the kernel says is mapped at an address of this process.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "system/file_descriptor.h"
#include "system/system.h"

namespace zerocopy {

// Reads the text of /proc/PID/maps: every line, in the kernel's order. Anything else than what proc(5) describes
// (numbers that overflow, empty or overlapping mappings, a last line without an end) is refused with
// Error::Code::malformed_maps. May be called from any thread.
std::vector<Mapping> parse_maps(std::string_view text);

// Answers which mapping holds an address. The kernel is asked address by address where it can be (PROCMAP_QUERY, Linux
// 6.11: microseconds), else /proc/self/maps is read once, at the first question. So answers are as of the first
// question about their mapping: make a new object for a new piece of work.
//
// For one thread at a time. `system` must outlive it.
class Mappings {
 public:
  explicit Mappings(System& system);

  // The mapping that holds `address`; none when nothing is mapped there. Throws Error: malformed_maps, or system_call
  // when /proc/self/maps cannot be read (always so where the operating system is not Linux).
  std::optional<Mapping> find(std::uintptr_t address);

 private:
  [[nodiscard]] std::optional<Mapping> known(std::uintptr_t address) const;

  System* system_;
  FileDescriptor maps_;         // For questions; owns nothing once the text was read.
  bool complete_ = false;       // mappings_ has all there are.
  std::vector<Mapping> known_;  // Those seen so far, ascending.
};

}  // namespace zerocopy
