#include "image/header.h"

#include <charconv>
#include <cstring>
#include <system_error>
#include <utility>

#include "image/digest.h"
#include "image/fields.h"
#include "image/format.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

constexpr fields::Reader kReader(Error::Code::malformed_header);

std::string as_text(std::span<const std::byte> bytes) {
  std::string text(bytes.size(), '\0');
  if (!bytes.empty()) {
    std::memcpy(text.data(), bytes.data(), bytes.size());
  }
  return text;
}

// The number behind the prefix: decimal digits, without a zero in front of others.
std::optional<std::uint64_t> number_behind(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) {
    return std::nullopt;
  }
  const std::string_view digits = name.substr(prefix.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc{} || end != digits.data() + digits.size() || (digits.size() > 1 && digits.front() == '0')) {
    return std::nullopt;
  }
  return number;
}

}  // namespace

Header::Header(std::span<const std::byte> file) {
  const std::string text = entries::header_text(file);
  document_ = std::make_unique<json::Document>(text, Error::Code::malformed_header, "the header");
  const json::Value root = document_->root();
  std::optional<json::Value> metadata;
  for (json::Members members = root.members(); !members.empty();) {
    const json::Member member = members.take();
    if (member.key == format::kMetadata) {
      metadata = member.value;
    }
  }
  if (!metadata) {
    throw Error(Error::Code::not_an_image, "it is a safetensors file without metadata");
  }
  read_metadata(*metadata);
  data_ = format::kLengthBytes + text.size();
  if (data_ % format::kPage != 0) {
    kReader.refuse("the data begins at byte " + std::to_string(data_) + ", within a page");
  }
  for (json::Members members = root.members(); !members.empty();) {
    const auto [name, value] = members.take();
    if (name != format::kMetadata) {
      fields::in([name = name] { return "the entry \"" + std::string(name) + "\""; },
                 [&, name = name, value = value] { read_entry(name, value); });
    }
  }
  const std::span<const std::byte> data = file.subspan(data_);
  entries::check_cover(ranges_, data.size());
  read_index(data);
}

void Header::read_metadata(const json::Value& metadata) {
  std::optional<std::string_view> version;
  std::optional<std::string_view> format;
  std::optional<std::string_view> unknown;
  kReader.expect(metadata, json::Kind::object, "__metadata__");
  for (json::Members members = metadata.members(); !members.empty();) {
    const auto [key, value] = members.take();
    const std::string_view text = kReader.text(value, "a value in __metadata__");
    if (key == format::kVersionKey) {
      version = text;
    } else if (key == format::kDigestKey) {
      digest_ = text;
    } else if (key == format::kFormatKey) {
      format = text;
    } else if (key.starts_with(format::kReserved)) {
      unknown = key;
    } else {
      metadata_.emplace(key, text);
    }
  }
  if (!version) {
    throw Error(Error::Code::not_an_image, "it is a safetensors file without \"zerocopy.version\" in its metadata");
  }
  if (*version != format::kVersion) {
    throw Error(Error::Code::unknown_version,
                "it is an image of version \"" + std::string(*version) + "\"; this reader knows version 1");
  }
  if (unknown) {
    throw Error(Error::Code::reserved_name, "the metadata has the reserved key \"" + std::string(*unknown) + "\"");
  }
  if (format != format::kFormat) {
    kReader.refuse(R"(the metadata has not "format": "pt")");
  }
  if (!is_digest(digest_)) {
    kReader.refuse("the metadata has the digest \"" + digest_ + "\"");
  }
}

void Header::read_entry(std::string_view name, const json::Value& value) {
  TensorEntry entry = entries::read(name, value);
  const Range range = entry.range;
  if (!name.starts_with(format::kReserved)) {
    tensors_.push_back(std::move(entry));
  } else {
    if (entry.dtype != "U8" || entry.shape.size() != 1) {
      kReader.refuse("it is not of bytes along one dimension");
    }
    add_reserved(name, range);
  }
  ranges_.push_back(range);
}

void Header::add_reserved(std::string_view name, const Range& range) {
  if (name == format::kIndex) {
    has_index_ = true;
    index_ = range;
  } else if (const auto blob = number_behind(name, format::kBlob)) {
    blobs_.emplace(*blob, range);
  } else if (number_behind(name, format::kRun)) {
    runs_.push_back(range);
  } else if (!number_behind(name, format::kPadding)) {
    throw Error(Error::Code::reserved_name, "names that begin with \"zerocopy.\" are reserved");
  }
}

void Header::read_index(std::span<const std::byte> data) {
  if (!has_index_ || index_.nbytes == 0) {
    kReader.refuse("there is no \"zerocopy.index\"");
  }
  if (index_.nbytes > format::kMaxIndex) {
    throw Error(Error::Code::too_large, "the index has " + std::to_string(index_.nbytes) + " bytes");
  }
  if (index_.offset % format::kAlignment != 0 || index_.offset + index_.nbytes != data.size()) {
    kReader.refuse("the index is not the last entry, or not aligned");
  }
  const std::span<const std::byte> bytes = data.subspan(index_.offset, index_.nbytes);
  index_text_ = as_text(bytes);
  if (const std::string found = digest_of(std::as_bytes(std::span(index_text_))); found != digest_) {
    throw Error(Error::Code::damaged, "the digest of its index is " + found + " instead of " + digest_);
  }
}

}  // namespace zerocopy
