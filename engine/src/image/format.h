// The constants of the image format, version 1, as docs/image_format.md has them: what writer and reader must agree on.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

namespace zerocopy::format {

// In the header's `__metadata__`.
inline constexpr std::string_view kMetadata = "__metadata__";
inline constexpr std::string_view kFormatKey = "format";
inline constexpr std::string_view kFormat = "pt";
inline constexpr std::string_view kVersionKey = "zerocopy.version";
inline constexpr std::string_view kVersion = "1";
inline constexpr std::string_view kDigestKey = "zerocopy.digest";

// Names of entries that are no tensors, each followed by a number, but for the index.
inline constexpr std::string_view kReserved = "zerocopy.";
inline constexpr std::string_view kRun = "zerocopy.run.";
inline constexpr std::string_view kPadding = "zerocopy.pad.";
inline constexpr std::string_view kBlob = "zerocopy.blob.";
inline constexpr std::string_view kIndex = "zerocopy.index";

inline constexpr std::uint64_t kLengthBytes = 8;    // Of the header's length, at the file's start.
inline constexpr std::uint64_t kPage = 4096;        // What the data, segments and large runs begin at a multiple of.
inline constexpr std::uint64_t kAlignment = 64;     // The same of small runs, blobs and the index.
inline constexpr std::uint64_t kLargeRun = 65'536;  // Runs of more bytes begin at a page.

// Limits.
inline constexpr std::uint64_t kMaxHeader = 100'000'000;  // Bytes; safetensors' own limit.
inline constexpr std::uint64_t kMaxIndex = 100'000'000;   // Bytes.
inline constexpr std::uint64_t kMaxNumber = (std::uint64_t{1} << 53U) - 1;
inline constexpr std::uint64_t kMaxTensors = 1'000'000;  // Also of blocks, and of the constants of a program.
inline constexpr std::uint64_t kMaxParts = 65'536;       // Segments, blobs, roots, archives, programs.
inline constexpr std::uint64_t kMaxDimensions = 64;      // torch's own limit.
inline constexpr std::uint64_t kMaxValues = 1U << 24U;   // JSON values and keys, in the header and in the index.
inline constexpr unsigned kMaxDepth = 8;                 // Of JSON arrays and objects within each other.

struct Dtype {
  std::string_view name;
  std::uint64_t item_size;
  bool in_header;  // Whether safetensors knows it, so that a tensor of it may be an entry of its own.
};

inline constexpr std::array kDtypes{
    Dtype{"BOOL", 1, true},    Dtype{"U8", 1, true},      Dtype{"I8", 1, true},          Dtype{"F8_E5M2", 1, true},
    Dtype{"F8_E4M3", 1, true}, Dtype{"F8_E8M0", 1, true}, Dtype{"F8_E4M3FNUZ", 1, true}, Dtype{"F8_E5M2FNUZ", 1, true},
    Dtype{"I16", 2, true},     Dtype{"U16", 2, true},     Dtype{"F16", 2, true},         Dtype{"BF16", 2, true},
    Dtype{"I32", 4, true},     Dtype{"U32", 4, true},     Dtype{"F32", 4, true},         Dtype{"C64", 8, true},
    Dtype{"F64", 8, true},     Dtype{"I64", 8, true},     Dtype{"U64", 8, true},         Dtype{"C128", 16, false},
};

// Null for any other name.
inline const Dtype* find_dtype(std::string_view name) {
  const auto* const found = std::ranges::find(kDtypes, name, &Dtype::name);
  return found == kDtypes.end() ? nullptr : found;
}

}  // namespace zerocopy::format
