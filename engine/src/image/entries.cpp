#include "image/entries.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>

#include "image/fields.h"
#include "image/format.h"
#include "zerocopy/error.h"

namespace zerocopy::entries {
namespace {

constexpr fields::Reader kReader(Error::Code::malformed_header);

[[noreturn]] void refuse_other_file(const std::string& why) {
  throw Error(Error::Code::not_an_image, "it is no safetensors file: " + why);
}

std::uint64_t header_length(std::span<const std::byte> file) {
  if (file.size() < format::kLengthBytes) {
    throw Error(Error::Code::truncated, "it has " + std::to_string(file.size()) + " bytes, too few for any image");
  }
  std::uint64_t length = 0;
  for (std::size_t byte = format::kLengthBytes; byte-- > 0;) {
    length = length << 8U | std::to_integer<std::uint64_t>(file[byte]);
  }
  if (length > format::kMaxHeader) {
    refuse_other_file("its header would have " + std::to_string(length) + " bytes");
  }
  if (file.size() > format::kLengthBytes && file[format::kLengthBytes] != std::byte{'{'}) {
    refuse_other_file("its header does not begin with \"{\"");
  }
  if (!fields::within(format::kLengthBytes, length, file.size())) {
    throw Error(Error::Code::truncated,
                "it has " + std::to_string(file.size()) + " bytes, its header alone " + std::to_string(length));
  }
  return length;
}

const format::Dtype* find_dtype(std::string_view name) {
  const auto* const found = std::ranges::find(format::kDtypes, name, &format::Dtype::name);
  return found != format::kDtypes.end() && found->in_header ? found : nullptr;
}

}  // namespace

std::string header_text(std::span<const std::byte> file) {
  std::string text(header_length(file), '\0');
  if (!text.empty()) {
    std::memcpy(text.data(), file.subspan(format::kLengthBytes).data(), text.size());
  }
  return text;
}

TensorEntry read(std::string_view name, const json::Value& value) {
  static constexpr std::array<std::string_view, 3> kMembers{"dtype", "shape", "data_offsets"};
  const std::array members = kReader.record(value, kMembers, "it");
  const std::string_view dtype = kReader.text(members[0], "its dtype");
  std::vector<std::uint64_t> shape = kReader.dimensions(members[1], "its shape");
  json::Elements offsets = kReader.tuple(members[2], 2, "its data_offsets");
  const std::uint64_t begin = kReader.number(offsets.take(), "its begin");
  const std::uint64_t end = kReader.number(offsets.take(), "its end");
  const format::Dtype* const known = find_dtype(dtype);
  if (known == nullptr) {
    kReader.refuse("its dtype is \"" + std::string(dtype) + "\"");
  }
  if (begin > end) {
    kReader.refuse("it begins at " + std::to_string(begin) + " and ends at " + std::to_string(end));
  }
  const Range range{begin, end - begin};
  if (const std::uint64_t size = kReader.size(shape, known->item_size); size != range.nbytes) {
    kReader.refuse("its elements have " + std::to_string(size) + " bytes, and it has " + std::to_string(range.nbytes));
  }
  return {name, dtype, std::move(shape), range};
}

void check_cover(std::vector<Range> ranges, std::uint64_t nbytes) {
  std::ranges::sort(ranges, {}, [](const Range& range) { return std::tuple(range.offset, range.nbytes); });
  std::uint64_t end = 0;
  for (const Range& range : ranges) {
    if (range.offset != end) {
      kReader.refuse("the entry that begins at byte " + std::to_string(range.offset) +
                     " of the data follows one that " + "ends at byte " + std::to_string(end));
    }
    end += range.nbytes;
  }
  if (end != nbytes) {
    throw Error(Error::Code::truncated,
                "it has " + std::to_string(nbytes) + " bytes of data instead of " + std::to_string(end));
  }
}

}  // namespace zerocopy::entries
