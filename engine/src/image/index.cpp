#include "image/index.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "image/digest.h"
#include "image/fields.h"
#include "image/format.h"
#include "image/json.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using json::Kind;
using json::Value;

// Where the first byte of a tensor is, from the start of the data.
std::uint64_t place_of(const Tensor& tensor, const Index& index) {
  const Block& block = index.blocks[tensor.block];
  const std::uint64_t segment = block.segment ? index.segments[*block.segment].range.offset : 0;
  return segment + block.offset + tensor.offset;
}

bool has_no_element(std::span<const std::uint64_t> shape) { return std::ranges::count(shape, 0U) != 0; }

// Whether the elements lie one after the other, the last dimension's closest together.
bool is_contiguous(const Tensor& tensor) {
  if (has_no_element(tensor.shape)) {
    return true;
  }
  std::uint64_t stride = 1;
  for (std::size_t axis = tensor.shape.size(); axis-- > 0;) {
    if (tensor.shape[axis] > 1 && tensor.strides[axis] != stride) {
      return false;
    }
    stride *= tensor.shape[axis];
  }
  return true;
}

// Reads the members one after the other: each refers to those before it.
class IndexReader : private fields::Reader {
 public:
  // That of a file.
  explicit IndexReader(const Header& header)
      : Reader(Error::Code::malformed_index), text_(header.index_text()), header_(&header) {}

  // That of an image in parts.
  IndexReader(std::string_view text, const PartSizes& sizes)
      : Reader(Error::Code::malformed_index, format::kMaxNumber), text_(text), sizes_(&sizes) {}

  Index read() {
    const json::Document document(text_, Error::Code::malformed_index, "the index");
    static constexpr std::array<std::string_view, 8> kMembers{"segments", "blocks",   "tensors", "blobs",
                                                              "archives", "programs", "roots",   "producer"};
    const std::array members = record(document.root(), kMembers, "the index");
    read_segments(members[0]);
    for_each(members[1], format::kMaxTensors, "block", [&](const Value& value) { read_block(value); });
    read_tensors(members[2]);
    read_blobs(members[3]);
    for_each(members[4], format::kMaxParts, "archive", [&](const Value& value) { read_archive(value); });
    for_each(members[5], format::kMaxParts, "program", [&](const Value& value) { read_program(value); });
    for_each(members[6], format::kMaxParts, "root", [&](const Value& value) { read_root(value); });
    index_.producer = text(members[7], "the producer");
    if (header_ != nullptr) {
      check_tensor_entries();
      check_runs();
      check_blob_entries();
    }
    if (sizes_ != nullptr) {
      check_sizes(index_.segments, sizes_->segments, "segment");
      check_sizes(index_.blobs, sizes_->blobs, "blob");
    }
    return std::move(index_);
  }

 private:
  // How many there may be of what the format allows that many of in a file.
  [[nodiscard]] std::uint64_t limit(std::uint64_t in_file) const noexcept {
    return header_ != nullptr ? in_file : format::kMaxNumber;
  }

  // Calls `read` with each element of an array of things called `what`.
  template <typename Read>
  void for_each(const Value& list, std::uint64_t at_most, const char* what, Read read) const {
    json::Elements elements = array(list, limit(at_most), "the list of " + std::string(what) + "s");
    for (std::size_t number = 0; !elements.empty(); ++number) {
      fields::in([&] { return std::string(what) + " " + std::to_string(number); },
                 [&, value = elements.take()] { read(value); });
    }
  }

  [[nodiscard]] Part read_part(const Value& value) const {
    json::Elements elements = tuple(value, 3, "it");
    Part part;
    part.range.offset = number(elements.take(), "its offset");
    part.range.nbytes = number(elements.take(), "its length");
    if (const Value digest = elements.take(); header_ != nullptr || !digest.is(Kind::null)) {
      part.digest = text(digest, "its digest");
      if (!is_digest(part.digest)) {
        refuse("its digest is \"" + part.digest + "\"");
      }
    }
    if (!fields::within(part.range.offset, part.range.nbytes,
                        header_ != nullptr ? header_->index().offset : format::kMaxNumber)) {
      refuse("its " + std::to_string(part.range.nbytes) + " bytes from byte " + std::to_string(part.range.offset) +
             " on are not in the data before the index");
    }
    if (part.range.offset < end_) {
      refuse("it begins at byte " + std::to_string(part.range.offset) + ", before the end of another, " +
             std::to_string(end_));
    }
    return part;
  }

  void read_segments(const Value& list) {
    for_each(list, format::kMaxParts, "segment", [&](const Value& value) {
      Part part = read_part(value);
      if (part.range.nbytes == 0) {
        refuse("it has no bytes");
      }
      if (header_ != nullptr && (part.range.offset % format::kPage != 0 || part.range.nbytes % format::kPage != 0)) {
        refuse("its " + std::to_string(part.range.nbytes) + " bytes from byte " + std::to_string(part.range.offset) +
               " on are no whole pages");
      }
      end_ = part.range.offset + part.range.nbytes;
      index_.segments.push_back(std::move(part));
    });
  }

  void read_blobs(const Value& list) {
    for_each(list, format::kMaxParts, "blob", [&](const Value& value) {
      Part part = read_part(value);
      if (header_ != nullptr && part.range.offset % format::kAlignment != 0) {
        refuse("it begins at byte " + std::to_string(part.range.offset) + ", no multiple of 64");
      }
      end_ = part.range.offset + part.range.nbytes;
      index_.blobs.push_back(std::move(part));
    });
  }

  void read_block(const Value& value) {
    json::Elements elements = tuple(value, 3, "it");
    const Value segment = elements.take();
    Block block;
    block.offset = number(elements.take(), "its offset");
    block.nbytes = number(elements.take(), "its length");
    if (!segment.is(Kind::null)) {
      block.segment = index(segment, index_.segments.size(), "its segment");
    }
    if (block.segment.has_value() != (block.nbytes != 0) || (!block.segment && block.offset != 0)) {
      refuse("a block without bytes is [null, 0, 0], and no other is in no segment");
    }
    if (block.segment && !fields::within(block.offset, block.nbytes, index_.segments[*block.segment].range.nbytes)) {
      refuse("its " + std::to_string(block.nbytes) + " bytes from byte " + std::to_string(block.offset) +
             " on are not within its segment");
    }
    index_.blocks.push_back(block);
  }

  [[nodiscard]] Tensor read_tensor(std::string_view name, const Value& value) const {
    json::Elements elements = tuple(value, 5, "it");
    Tensor tensor;
    tensor.name = name;
    tensor.dtype = text(elements.take(), "its dtype");
    tensor.shape = dimensions(elements.take(), "its shape");
    tensor.strides = dimensions(elements.take(), "its strides");
    tensor.block = index(elements.take(), index_.blocks.size(), "its block");
    tensor.offset = number(elements.take(), "its offset");
    const std::optional<std::uint64_t> item = item_size(tensor.dtype);
    if (!item) {
      refuse("its dtype is \"" + tensor.dtype + "\"");
    }
    if (tensor.strides.size() != tensor.shape.size()) {
      refuse("it has " + std::to_string(tensor.shape.size()) + " dimensions and " +
             std::to_string(tensor.strides.size()) + " strides");
    }
    const std::uint64_t nbytes = size(tensor.shape, *item);
    std::uint64_t last = 0;  // Element.
    for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
      last =
          fields::sum(last, fields::product(std::max<std::uint64_t>(tensor.shape[axis], 1) - 1, tensor.strides[axis]));
    }
    const std::uint64_t reach = nbytes == 0 ? 0 : fields::product(fields::sum(last, 1), *item);
    if (!fields::within(tensor.offset, reach, index_.blocks[tensor.block].nbytes)) {
      refuse("it is not within its block: " + std::to_string(reach) + " bytes from byte " +
             std::to_string(tensor.offset) + " on of " + std::to_string(index_.blocks[tensor.block].nbytes));
    }
    return tensor;
  }

  [[nodiscard]] std::vector<Tensor> read_tensor_map(const Value& value, const char* what) const {
    json::Members members = object(value, limit(format::kMaxTensors), what);
    std::vector<Tensor> tensors;
    tensors.reserve(value.size());
    while (!members.empty()) {
      const auto [name, tensor] = members.take();
      fields::in([name = name] { return "the tensor \"" + std::string(name) + "\""; },
                 [&, name = name, tensor = tensor] { tensors.push_back(read_tensor(name, tensor)); });
    }
    return tensors;
  }

  void read_tensors(const Value& value) {
    index_.tensors = read_tensor_map(value, "the list of tensors");
    for (const Tensor& tensor : index_.tensors) {
      if (tensor.name.starts_with(format::kReserved) || tensor.name == format::kMetadata) {
        throw Error(Error::Code::reserved_name, "a tensor has the reserved name \"" + tensor.name + "\"");
      }
    }
    index_.by_name.resize(index_.tensors.size());
    std::iota(index_.by_name.begin(), index_.by_name.end(), 0U);
    std::ranges::sort(index_.by_name, {},
                      [&](std::uint32_t number) { return std::string_view(index_.tensors[number].name); });
  }

  void read_archive(const Value& value) {
    static constexpr std::array<std::string_view, 5> kMembers{"records", "blocks", "sizes", "has_storages", "modules"};
    const std::array members = record(value, kMembers, "it");
    Archive archive;
    archive.records = index(members[0], index_.blobs.size(), "its blob of records");
    archive.blocks = indices(members[1], index_.blocks.size(), "a block of it");
    json::Elements sizes = tuple(members[2], archive.blocks.size(), "its list of sizes");
    for (const std::uint32_t block : archive.blocks) {
      archive.sizes.push_back(number(sizes.take(), "a size in it"));
      if (archive.sizes.back() > index_.blocks[block].nbytes) {
        refuse("it has a storage of " + std::to_string(archive.sizes.back()) + " bytes in block " +
               std::to_string(block) + " of " + std::to_string(index_.blocks[block].nbytes));
      }
    }
    expect(members[3], Kind::boolean, "its has_storages");
    archive.has_storages = members[3].boolean();
    std::set<std::uint64_t> numbers;
    for (json::Elements modules = array(members[4], limit(format::kMaxTensors), "its list of modules");
         !modules.empty();) {
      archive.modules.push_back(read_module(modules.take()));
      if (!numbers.insert(archive.modules.back().number).second) {
        refuse("it has the module " + std::to_string(archive.modules.back().number) + " twice");
      }
    }
    archive_segments_.push_back(segments_of(archive.blocks));
    index_.archives.push_back(std::move(archive));
  }

  [[nodiscard]] ScriptModule read_module(const Value& value) const {
    json::Elements elements = tuple(value, 3, "a module of it");
    ScriptModule module;
    module.number = number(elements.take(), "a module's number");
    module.place = number(elements.take(), "a module's place");
    for (json::Elements names = array(elements.take(), limit(format::kMaxTensors), "a module's submodules");
         !names.empty();) {
      module.submodules.emplace_back(text(names.take(), "a submodule's name"));
    }
    return module;
  }

  void read_program(const Value& value) {
    static constexpr std::array<std::string_view, 2> kMembers{"package", "constants"};
    const std::array members = record(value, kMembers, "it");
    Program program;
    program.package = index(members[0], index_.blobs.size(), "its package");
    program.constants = read_tensor_map(members[1], "its list of constants");
    index_.programs.push_back(std::move(program));
  }

  void read_root(const Value& value) {
    static constexpr std::array<std::string_view, 7> kMembers{"name",          "skeleton", "buffers",      "archive",
                                                              "tensor_blocks", "segments", "host_segments"};
    const std::array members = record(value, kMembers, "it");
    Root root;
    root.name = text(members[0], "its name");
    root.skeleton = index(members[1], index_.blobs.size(), "its skeleton");
    root.buffers = indices(members[2], index_.blocks.size(), "a buffer of it");
    if (!members[3].is(Kind::null)) {
      root.archive = index(members[3], index_.archives.size(), "its archive");
    }
    root.tensor_blocks = indices(members[4], index_.blocks.size(), "a block of its tensors");
    root.segments = indices(members[5], index_.segments.size(), "a segment of it");
    root.host_segments = indices(members[6], index_.segments.size(), "a segment of it for the host");
    check_ascending(root.segments);
    check_ascending(root.host_segments);
    if (!std::ranges::includes(root.segments, root.host_segments)) {
      refuse("it has a segment for the host that is not one of its segments");
    }
    check_uses(segments_of(root.buffers), root);
    check_uses(segments_of(root.tensor_blocks), root);
    if (root.archive) {
      check_uses(archive_segments_[*root.archive], root);
    }
    if (!names_.insert(root.name).second) {
      throw Error(Error::Code::duplicate_name, "its name \"" + root.name + "\" is that of another root");
    }
    index_.roots.push_back(std::move(root));
  }

  void check_ascending(std::span<const std::uint32_t> segments) const {
    if (std::ranges::adjacent_find(segments, std::ranges::greater_equal()) != segments.end()) {
      refuse("its segments are not in ascending order, each once");
    }
  }

  [[nodiscard]] std::set<std::uint32_t> segments_of(std::span<const std::uint32_t> blocks) const {
    std::set<std::uint32_t> segments;
    for (const std::uint32_t block : blocks) {
      if (const std::optional<std::uint32_t>& segment = index_.blocks[block].segment) {
        segments.insert(*segment);
      }
    }
    return segments;
  }

  void check_uses(const std::set<std::uint32_t>& segments, const Root& root) const {
    if (!std::ranges::includes(root.segments, segments)) {
      refuse("it uses a block in a segment that it does not list");
    }
  }

  void check_sizes(std::span<const Part> parts, std::span<const std::uint64_t> sizes, const std::string& what) const {
    if (parts.size() != sizes.size()) {
      refuse("it has " + std::to_string(parts.size()) + " " + what + "s, and " + std::to_string(sizes.size()) +
             " are there");
    }
    for (std::size_t number = 0; number < parts.size(); ++number) {
      if (parts[number].range.nbytes != sizes[number]) {
        throw Error(Error::Code::truncated, what + " " + std::to_string(number) + " has " +
                                                std::to_string(sizes[number]) + " bytes instead of " +
                                                std::to_string(parts[number].range.nbytes));
      }
    }
  }

  void check_tensor_entries() const {
    for (const TensorEntry& entry : header_->tensors()) {
      const Tensor* const tensor = index_.find(entry.name);
      if (tensor == nullptr) {
        refuse("the entry \"" + std::string(entry.name) + "\" is not in the index");
      }
      if (tensor->dtype != entry.dtype || tensor->shape != entry.shape || !is_contiguous(*tensor) ||
          (entry.range.nbytes != 0 && place_of(*tensor, index_) != entry.range.offset)) {
        refuse("the entry \"" + std::string(entry.name) + "\" is another tensor than the one in the index");
      }
    }
  }

  void check_runs() const {
    for (const Range& run : header_->runs()) {
      // The last segment that does not begin behind it.
      const auto behind =
          std::ranges::upper_bound(index_.segments, run.offset, {}, [](const Part& part) { return part.range.offset; });
      if (behind == index_.segments.begin() ||
          !fields::within(run.offset - std::prev(behind)->range.offset, run.nbytes, std::prev(behind)->range.nbytes)) {
        refuse("the run at byte " + std::to_string(run.offset) + " is in no segment");
      }
    }
  }

  void check_blob_entries() const {
    if (header_->blobs().size() != index_.blobs.size()) {
      refuse("it has " + std::to_string(index_.blobs.size()) + " blobs, and the header has " +
             std::to_string(header_->blobs().size()));
    }
    for (const auto& [number, range] : header_->blobs()) {
      if (number >= index_.blobs.size() || index_.blobs[number].range != range) {
        refuse("the entry of blob " + std::to_string(number) + " is not where the index has that blob");
      }
    }
  }

  std::string_view text_;
  const Header* header_ = nullptr;    // Of a file.
  const PartSizes* sizes_ = nullptr;  // Of an image in parts.
  Index index_;
  std::uint64_t end_ = 0;                     // Of the last segment or blob that was read.
  std::set<std::string, std::less<>> names_;  // Of roots.
  // Of each archive, once: any number of roots may have the same.
  std::vector<std::set<std::uint32_t>> archive_segments_;
};

}  // namespace

const Tensor* Index::find(std::string_view name) const noexcept {
  const auto name_of = [&](std::uint32_t number) { return std::string_view(tensors[number].name); };
  const auto found = std::ranges::lower_bound(by_name, name, {}, name_of);
  return found != by_name.end() && name_of(*found) == name ? &tensors[*found] : nullptr;
}

Index read_index(const Header& header) { return IndexReader(header).read(); }

Index read_index(std::string_view text, const PartSizes& sizes) {
  if (text.size() > format::kMaxIndex) {
    throw Error(Error::Code::too_large, "the index has " + std::to_string(text.size()) + " bytes, and " +
                                            std::to_string(format::kMaxIndex) + " is the limit");
  }
  return IndexReader(text, sizes).read();
}

}  // namespace zerocopy
