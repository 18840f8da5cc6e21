#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>
#include <set>
#include <utility>

#include "image/entries.h"
#include "image/fields.h"
#include "image/format.h"
#include "image/json.h"
#include "image/shards.h"
#include "system/system.h"
#include "zerocopy/error.h"
#include "zerocopy/safetensors.h"

namespace zerocopy {

struct Checkpoint::Content {
  // Adds a file and its tensors, if the checkpoint is to have them.
  template <typename Wanted>
  void add(const std::shared_ptr<const SharedFile>& file, Wanted is_wanted) {
    try {
      read(file, is_wanted);
    } catch (const Error& error) {
      throw Error(error.code(), file->name() + " cannot be read as a checkpoint: " + error.what());
    }
  }

  void add(const Shard& shard, System& system) {
    const std::shared_ptr<const SharedFile> file = SharedFile::open(shard.path, system);
    if (!shard.tensors) {
      add(file, [](std::string_view /*name*/) { return true; });
      return;
    }
    const std::size_t before = tensors.size();
    add(file, [&](std::string_view name) { return shard.tensors->contains(name); });
    if (tensors.size() - before < shard.tensors->size()) {
      std::set<std::string, std::less<>> missing = *shard.tensors;
      for (const CheckpointTensor& tensor : std::span(tensors).subspan(before)) {
        missing.erase(tensor.name);
      }
      throw Error(Error::Code::malformed_index, in_quotes(shard.path) +
                                                    " lacks what the index of the checkpoint says is in it: " +
                                                    listed({missing.begin(), missing.end()}));
    }
  }

  // Those of several files; within one they have been checked.
  void check_names() const {
    std::vector<std::uint32_t> by_name(tensors.size());
    std::iota(by_name.begin(), by_name.end(), 0U);
    const auto name_of = [&](std::uint32_t number) -> const std::string& { return tensors[number].name; };
    std::ranges::stable_sort(by_name, {}, name_of);
    const auto twice = std::ranges::adjacent_find(by_name, {}, name_of);
    if (twice != by_name.end()) {
      const CheckpointTensor& second = tensors[*std::next(twice)];
      throw Error(Error::Code::duplicate_name, "The checkpoint has two tensors " + in_quotes(second.name) +
                                                   ", the second in " + in_quotes(files[second.file].file->name()));
    }
  }

  std::vector<CheckpointFile> files;
  std::vector<CheckpointTensor> tensors;

 private:
  template <typename Wanted>
  void read(const std::shared_ptr<const SharedFile>& file, Wanted is_wanted) {
    check_limit(files.size() + 1, format::kMaxParts, "files");
    const std::string text = entries::header_text(file->bytes());
    const std::span<const std::byte> data = file->bytes().subspan(format::kLengthBytes + text.size());
    const json::Document document(text, Error::Code::malformed_header, "the header");
    std::vector<Range> ranges;
    for (json::Members members = document.root().members(); !members.empty();) {
      const auto [name, value] = members.take();
      if (name == format::kMetadata) {
        continue;
      }
      fields::in([name = name] { return "the entry \"" + std::string(name) + "\""; },
                 [&, name = name, value = value] {
                   TensorEntry entry = entries::read(name, value);
                   ranges.push_back(entry.range);
                   if (!name.starts_with(format::kReserved) && is_wanted(name)) {
                     add(std::move(entry));
                   }
                 });
    }
    entries::check_cover(std::move(ranges), data.size());
    files.push_back({file, data});
  }

  void add(TensorEntry entry) {
    check_limit(tensors.size() + 1, format::kMaxTensors, "tensors");
    tensors.push_back({std::string(entry.name), std::string(entry.dtype), std::move(entry.shape),
                       static_cast<std::uint32_t>(files.size()), entry.range.offset, entry.range.nbytes});
  }

  static void check_limit(std::size_t count, std::uint64_t limit, const char* of_what) {
    if (count > limit) {
      throw Error(Error::Code::too_large, "the checkpoint has more than " + std::to_string(limit) + " " + of_what);
    }
  }
};

Checkpoint::Checkpoint(std::shared_ptr<const Content> content) noexcept : content_(std::move(content)) {}

Checkpoint Checkpoint::open(const std::string& path) { return open(path, System::real()); }

Checkpoint Checkpoint::open(const std::string& path, System& system) { return open(std::array{path}, system); }

Checkpoint Checkpoint::open(std::span<const std::string> paths) { return open(paths, System::real()); }

Checkpoint Checkpoint::open(std::span<const std::string> paths, System& system) {
  const auto content = std::make_shared<Content>();
  for (const std::string& path : paths) {
    for (const Shard& shard : find_shards(path, system)) {
      if (shard.index.empty()) {
        content->add(shard, system);
      } else {
        fields::in([&] { return "A file that " + in_quotes(shard.index) + " names"; },
                   [&] { content->add(shard, system); });
      }
    }
  }
  content->check_names();
  return Checkpoint(content);
}

Checkpoint Checkpoint::open(const std::shared_ptr<const SharedFile>& file) {
  const auto content = std::make_shared<Content>();
  content->add(file, [](std::string_view /*name*/) { return true; });
  return Checkpoint(content);
}

std::span<const CheckpointFile> Checkpoint::files() const noexcept { return content_->files; }

std::span<const CheckpointTensor> Checkpoint::tensors() const noexcept { return content_->tensors; }

}  // namespace zerocopy
