// Writing bytes to a file and taking their digests in one pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "zerocopy/image_writer.h"

namespace zerocopy {

class NewFile;
class System;

// Bytes that follow those of the piece before in the file.
struct Piece {
  std::span<const std::byte> bytes;
  std::optional<std::uint32_t> digest;  // The number of the digest that they are part of. These ascend.
};

// Writes all pieces from `offset` on, and returns `digests` digests, each of the pieces that name it; those that no
// piece names are that of no bytes. REQUIRES: options.threads is not 0. Throws Error::Code::system_call, and what
// options.progress throws.
std::vector<std::string> write_digested(const NewFile& file, std::uint64_t offset, std::span<const Piece> pieces,
                                        std::uint32_t digests, const WriteOptions& options, System& system);

}  // namespace zerocopy
