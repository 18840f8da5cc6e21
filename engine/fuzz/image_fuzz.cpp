// Whatever a file has in it is either refused as an image, or an image whose every part lies within the file.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "image/header.h"
#include "zerocopy/error.h"
#include "zerocopy/image.h"

namespace {

using zerocopy::Error;
using zerocopy::Image;
using zerocopy::SharedFile;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

bool is_verdict(Error::Code code) {
  switch (code) {
    case Error::Code::not_an_image:
    case Error::Code::unknown_version:
    case Error::Code::truncated:
    case Error::Code::malformed_header:
    case Error::Code::malformed_index:
    case Error::Code::damaged:
    case Error::Code::too_large:
    case Error::Code::reserved_name:
    case Error::Code::duplicate_name:
      return true;
    default:
      return false;
  }
}

std::shared_ptr<const SharedFile> file_of(std::string_view bytes) {
  const int file = ::memfd_create("image", MFD_CLOEXEC);
  require(file != -1);
  require(::write(file, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  return SharedFile::adopt(file, "the input");
}

// A fuzzer does not find a text of a given digest: the one in the metadata becomes that of the index, when everything
// up to there is as it should be.
std::string with_digest(std::span<const std::uint8_t> file) {
  constexpr std::size_t digits = 32;
  std::string changed(file.begin(), file.end());
  try {
    static_cast<void>(zerocopy::Header(std::as_bytes(file)));
  } catch (const Error& error) {
    constexpr std::string_view before_found = "the digest of its index is ";
    const std::string_view message = error.what();
    if (error.code() != Error::Code::damaged) {
      return changed;
    }
    const std::string_view found = message.substr(before_found.size(), digits);
    const std::string_view expected = message.substr(message.size() - digits);
    if (const std::size_t at = changed.find(expected); at != std::string::npos) {
      changed.replace(at, digits, found);
    }
  }
  return changed;
}

void require_within(std::span<const std::byte> inner, std::span<const std::byte> outer) {
  require(inner.empty() || (!std::less<>()(inner.data(), outer.data()) &&
                            !std::less<>()(outer.data() + outer.size(), inner.data() + inner.size())));
}

std::uint8_t first_and_last_byte(const Image& image, const zerocopy::Tensor& tensor) {
  const std::span<const std::byte> block = image.block(tensor.block);
  const std::uint64_t item_size = zerocopy::item_size(tensor.dtype).value_or(0);
  std::uint64_t last = tensor.offset + item_size - 1;
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    if (tensor.shape[axis] == 0) {
      require(tensor.offset <= block.size());
      return 0;
    }
    last += (tensor.shape[axis] - 1) * tensor.strides[axis] * item_size;
  }
  return std::to_integer<std::uint8_t>(block[tensor.offset]) ^ std::to_integer<std::uint8_t>(block[last]);
}

// The segments of a file, and its blobs' places, are an image in parts with its index.
void require_same_in_parts(const Image& image) {
  zerocopy::ImageParts parts{std::string(image.index()), {}, {}, image.file()};
  for (std::size_t number = 0; number < image.segment_count(); ++number) {
    parts.segments.push_back(image.segment(number));
  }
  for (std::size_t number = 0; number < image.blob_count(); ++number) {
    try {
      parts.blobs.push_back(image.blob(number));
    } catch (const Error& error) {
      return;  // It is damaged, so its bytes are not to be had.
    }
  }
  const Image same = Image::assemble(std::move(parts));
  require(std::ranges::equal(same.blocks(), image.blocks()) && std::ranges::equal(same.roots(), image.roots()) &&
          std::ranges::equal(same.tensors(), image.tensors()) && same.digest() == image.digest());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Image image = Image::open(file_of(with_digest({data, size})));
    const std::span<const std::byte> file = image.file()->bytes();
    for (std::size_t number = 0; number < image.segment_count(); ++number) {
      require_within(image.segment(number), file);
    }
    for (std::size_t number = 0; number < image.blocks().size(); ++number) {
      require_within(image.block(number), file);
    }
    [[maybe_unused]] volatile std::uint8_t sum = 0;
    for (const zerocopy::Tensor& tensor : image.tensors()) {
      require(image.find(tensor.name) == &tensor);
      sum = first_and_last_byte(image, tensor);
    }
    for (const zerocopy::Root& root : image.roots()) {
      require(image.view(root.segments).size() == root.segments.size());
    }
    require_same_in_parts(image);
    const std::vector<zerocopy::Damage> damages = image.verify();
    for (std::size_t number = 0; number < image.blob_count(); ++number) {
      try {
        require_within(image.blob(number), file);
      } catch (const Error& error) {
        require(error.code() == Error::Code::damaged && !damages.empty());
      }
    }
  } catch (const Error& error) {
    require(is_verdict(error.code()));
  }
  return 0;
}
