#include <utility>

#include "image/entries.h"
#include "image/fields.h"
#include "image/format.h"
#include "image/json.h"
#include "zerocopy/error.h"
#include "zerocopy/safetensors.h"

namespace zerocopy {

struct Checkpoint::Content {
  explicit Content(std::shared_ptr<const SharedFile> opened) : file(std::move(opened)) {
    const std::string text = entries::header_text(file->bytes());
    data = file->bytes().subspan(format::kLengthBytes + text.size());
    const json::Document document(text, Error::Code::malformed_header, "the header");
    std::vector<Range> ranges;
    for (json::Members members = document.root().members(); !members.empty();) {
      const auto [name, value] = members.take();
      if (name != format::kMetadata) {
        fields::in([name = name] { return "the entry \"" + std::string(name) + "\""; },
                   [&, name = name, value = value] { ranges.push_back(add(entries::read(name, value))); });
      }
    }
    entries::check_cover(std::move(ranges), data.size());
  }

  Range add(TensorEntry entry) {
    const Range range = entry.range;
    tensors.push_back(
        {std::string(entry.name), std::string(entry.dtype), std::move(entry.shape), range.offset, range.nbytes});
    return range;
  }

  std::shared_ptr<const SharedFile> file;
  std::span<const std::byte> data;
  std::vector<CheckpointTensor> tensors;
};

Checkpoint::Checkpoint(std::shared_ptr<const Content> content) noexcept : content_(std::move(content)) {}

Checkpoint Checkpoint::open(const std::string& path) { return open(SharedFile::open(path)); }

Checkpoint Checkpoint::open(const std::string& path, System& system) { return open(SharedFile::open(path, system)); }

Checkpoint Checkpoint::open(const std::shared_ptr<const SharedFile>& file) {
  try {
    return Checkpoint(std::make_shared<const Content>(file));
  } catch (const Error& error) {
    throw Error(error.code(), file->name() + " cannot be read as a checkpoint: " + error.what());
  }
}

const std::shared_ptr<const SharedFile>& Checkpoint::file() const noexcept { return content_->file; }

std::span<const CheckpointTensor> Checkpoint::tensors() const noexcept { return content_->tensors; }

std::span<const std::byte> Checkpoint::data() const noexcept { return content_->data; }

}  // namespace zerocopy
