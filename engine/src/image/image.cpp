#include "zerocopy/image.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

#include "image/digest.h"
#include "image/format.h"
#include "image/header.h"
#include "image/index.h"
#include "system/system.h"
#include "window/prefault.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

[[noreturn]] void refuse_number(Error::Code code, const char* what, std::size_t number, std::size_t count) {
  throw Error(code, std::string(what) + " " + std::to_string(number) + " is asked for, and the image has " +
                        std::to_string(count));
}

// None where the part has no digest.
std::optional<Damage> damage_of(const Part& part, std::span<const std::byte> bytes, Damage::Part what,
                                std::size_t number) {
  if (part.digest.empty()) {
    return std::nullopt;
  }
  std::string found = digest_of(bytes);
  if (found == part.digest) {
    return std::nullopt;
  }
  return Damage{what, static_cast<std::uint32_t>(number), part.digest, std::move(found)};
}

std::vector<std::span<const std::byte>> bytes_of(std::span<const Part> parts, std::span<const std::byte> data) {
  std::vector<std::span<const std::byte>> all;
  all.reserve(parts.size());
  for (const Part& part : parts) {
    all.push_back(data.subspan(part.range.offset, part.range.nbytes));
  }
  return all;
}

PartSizes sizes_of(const ImageParts& parts) {
  const auto size = [](std::span<const std::byte> bytes) { return bytes.size(); };
  PartSizes sizes;
  std::ranges::transform(parts.segments, std::back_inserter(sizes.segments), size);
  std::ranges::transform(parts.blobs, std::back_inserter(sizes.blobs), size);
  return sizes;
}

}  // namespace

std::optional<std::uint64_t> item_size(std::string_view dtype) {
  const auto* const found = std::ranges::find(format::kDtypes, dtype, &format::Dtype::name);
  return found == format::kDtypes.end() ? std::nullopt : std::optional(found->item_size);
}

struct Image::Content {
  Content(std::shared_ptr<const SharedFile> opened, const Header& header)
      : file(std::move(opened)),
        system(&file->system()),
        metadata(header.metadata()),
        digest(header.digest()),
        index(read_index(header)),
        parts{header.index_text(), bytes_of(index.segments, file->bytes().subspan(header.data())),
              bytes_of(index.blobs, file->bytes().subspan(header.data())), file},
        sound_blobs(index.blobs.size()) {}

  Content(ImageParts given, System& the_system)
      : system(&the_system),
        digest(digest_of(std::as_bytes(std::span(given.index)))),
        index(read_index(given.index, sizes_of(given))),
        parts(std::move(given)),
        sound_blobs(index.blobs.size()) {}

  // What of segments and blobs, counted as one list, is damaged.
  [[nodiscard]] std::optional<Damage> damage(std::size_t nth) const {
    if (nth < index.segments.size()) {
      return damage_of(index.segments[nth], parts.segments[nth], Damage::Part::segment, nth);
    }
    const std::size_t number = nth - index.segments.size();
    return damage_of(index.blobs[number], parts.blobs[number], Damage::Part::blob, number);
  }

  [[nodiscard]] std::string name() const { return file ? file->name() : "the image"; }

  std::shared_ptr<const SharedFile> file;  // Null for an image in parts.
  System* system;
  std::map<std::string, std::string, std::less<>> metadata;
  std::string digest;
  Index index;
  ImageParts parts;
  mutable std::vector<std::atomic<bool>> sound_blobs;  // Those that have been compared with their digests.
};

Image::Image(std::shared_ptr<const Content> content) noexcept : content_(std::move(content)) {}

Image Image::open(const std::string& path) { return open(SharedFile::open(path)); }

Image Image::open(const std::string& path, System& system) { return open(SharedFile::open(path, system)); }

Image Image::open(const std::shared_ptr<const SharedFile>& file) {
  try {
    const Header header(file->bytes());
    return Image(std::make_shared<const Content>(file, header));
  } catch (const Error& error) {
    throw Error(error.code(), file->name() + " cannot be read as an image: " + error.what());
  }
}

Image Image::assemble(ImageParts parts) { return assemble(std::move(parts), System::real()); }

Image Image::assemble(ImageParts parts, System& system) {
  try {
    return Image(std::make_shared<const Content>(std::move(parts), system));
  } catch (const Error& error) {
    throw Error(error.code(), std::string("an image cannot be put together from its parts: ") + error.what());
  }
}

const std::shared_ptr<const SharedFile>& Image::file() const noexcept { return content_->file; }

std::span<const Tensor> Image::tensors() const noexcept { return content_->index.tensors; }

const Tensor* Image::find(std::string_view name) const noexcept { return content_->index.find(name); }

std::span<const Block> Image::blocks() const noexcept { return content_->index.blocks; }

std::span<const Root> Image::roots() const noexcept { return content_->index.roots; }

std::span<const Archive> Image::archives() const noexcept { return content_->index.archives; }

std::span<const Program> Image::programs() const noexcept { return content_->index.programs; }

const std::map<std::string, std::string, std::less<>>& Image::metadata() const noexcept { return content_->metadata; }

const std::string& Image::producer() const noexcept { return content_->index.producer; }

std::string_view Image::index() const noexcept { return content_->parts.index; }

const std::string& Image::digest() const noexcept { return content_->digest; }

std::size_t Image::segment_count() const noexcept { return content_->index.segments.size(); }

std::size_t Image::blob_count() const noexcept { return content_->index.blobs.size(); }

std::span<const std::byte> Image::segment(std::size_t number) const {
  if (number >= segment_count()) {
    refuse_number(Error::Code::no_such_segment, "segment", number, segment_count());
  }
  return content_->parts.segments[number];
}

std::span<const std::byte> Image::block(std::size_t number) const {
  if (number >= content_->index.blocks.size()) {
    refuse_number(Error::Code::no_such_block, "block", number, content_->index.blocks.size());
  }
  const Block& block = content_->index.blocks[number];
  return block.segment ? segment(*block.segment).subspan(block.offset, block.nbytes) : std::span<const std::byte>{};
}

std::span<const std::byte> Image::blob(std::size_t number) const {
  const std::vector<Part>& blobs = content_->index.blobs;
  if (number >= blobs.size()) {
    refuse_number(Error::Code::no_such_blob, "blob", number, blobs.size());
  }
  const std::span<const std::byte> bytes = content_->parts.blobs[number];
  std::atomic<bool>& is_sound = content_->sound_blobs[number];
  if (!is_sound.load(std::memory_order_relaxed)) {
    if (const auto damage = damage_of(blobs[number], bytes, Damage::Part::blob, number)) {
      throw Error(Error::Code::damaged, content_->name() + " is damaged: the digest of its blob " +
                                            std::to_string(number) + " is " + damage->found + " instead of " +
                                            damage->expected);
    }
    is_sound.store(true, std::memory_order_relaxed);
  }
  return bytes;
}

View Image::view(std::span<const std::uint32_t> segments) const {
  std::vector<std::span<const std::byte>> spans;
  spans.reserve(segments.size());
  for (const std::uint32_t number : segments) {
    spans.push_back(segment(number));
  }
  return {spans, content_->parts.owner, *content_->system};
}

std::vector<Damage> Image::verify(unsigned threads) const {
  if (threads == 0 || threads > Prefault::max_threads) {
    throw Error(Error::Code::bad_thread_count, std::to_string(threads) + " threads are asked for; 1 to " +
                                                   std::to_string(Prefault::max_threads) + " can be had");
  }
  const std::size_t count = segment_count() + blob_count();
  std::vector<std::optional<Damage>> found(count);
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t nth = next.fetch_add(1); nth < count; nth = next.fetch_add(1)) {
      found[nth] = content_->damage(nth);
    }
  };
  {
    // This thread works as well. Where no more can be had, those that there are do it all.
    std::vector<std::jthread> others;
    try {
      while (others.size() + 1 < std::min<std::size_t>(threads, count)) {
        others.emplace_back([&] {
          content_->system->block_signals();
          work();
        });
      }
    } catch (const std::system_error&) {  // NOLINT(bugprone-empty-catch)
    }
    work();
  }
  std::vector<Damage> damages;
  for (std::optional<Damage>& damage : found) {
    if (damage) {
      damages.push_back(std::move(*damage));
    }
  }
  return damages;
}

}  // namespace zerocopy
