#include "zerocopy/image_writer.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "image/digest.h"
#include "image/digested_write.h"
#include "image/fields.h"
#include "image/file_plan.h"
#include "image/format.h"
#include "image/json.h"
#include "image/layout.h"
#include "image/new_file.h"
#include "system/system.h"
#include "window/placement.h"
#include "window/prefault.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using Json = nlohmann::json;
using Numbers = std::vector<std::uint32_t>;

[[noreturn]] void refuse(Error::Code code, const std::string& message) { throw Error(code, message); }

std::string in_quotes(std::string_view name) { return std::string(1, '"').append(name).append(1, '"'); }

void check_text(std::string_view text, const std::string& what) {
  try {
    static_cast<void>(Json(text).dump());
  } catch (const Json::exception&) {
    refuse(Error::Code::malformed_index, what + " is not UTF-8");
  }
}

void check_limit(std::uint64_t value, std::uint64_t limit, const std::string& what) {
  if (value > limit) {
    refuse(Error::Code::too_large,
           what + ": " + std::to_string(value) + ", and " + std::to_string(limit) + " is the limit");
  }
}

// The number of what is added to `count` others.
std::uint32_t next_number(std::size_t count, std::uint64_t limit, const std::string& what) {
  check_limit(count + 1, limit, what + " in an image");
  return static_cast<std::uint32_t>(count);
}

// Ascending, each once.
Numbers as_set(const Numbers& numbers) {
  const std::set<std::uint32_t> ascending(numbers.begin(), numbers.end());
  return {ascending.begin(), ascending.end()};
}

Numbers together(Numbers some, const Numbers& others) {
  some.insert(some.end(), others.begin(), others.end());
  return as_set(some);
}

Numbers segments_of(const Numbers& blocks, const Layout& layout) {
  Numbers segments;
  for (const std::uint32_t block : blocks) {
    if (const std::optional<std::uint32_t> segment = layout.places()[block].segment) {
      segments.push_back(*segment);
    }
  }
  return as_set(segments);
}

Json as_json(const std::optional<std::uint32_t>& number) { return number ? Json(*number) : Json(nullptr); }

Json as_json(std::span<const Tensor> tensors) {
  Json object = Json::object();
  for (const Tensor& tensor : tensors) {
    object[tensor.name] = Json::array({tensor.dtype, tensor.shape, tensor.strides, tensor.block, tensor.offset});
  }
  return object;
}

Json as_json(const Root& root, const Numbers& segments, const Numbers& host_segments) {
  return {{"name", root.name},
          {"skeleton", root.skeleton},
          {"buffers", root.buffers},
          {"archive", as_json(root.archive)},
          {"tensor_blocks", root.tensor_blocks},
          {"segments", segments},
          {"host_segments", host_segments}};
}

Json as_json(const Archive& archive) {
  Json modules = Json::array();
  for (const ScriptModule& module : archive.modules) {
    modules.push_back(Json::array({module.number, module.place, module.submodules}));
  }
  return {{"records", archive.records},
          {"blocks", archive.blocks},
          {"sizes", archive.sizes},
          {"has_storages", archive.has_storages},
          {"modules", std::move(modules)}};
}

Json as_json(const Program& program) {
  return {{"package", program.package}, {"constants", as_json(program.constants)}};
}

Json blocks_as_json(std::span<const std::span<const std::byte>> blocks, const Layout& layout) {
  Json list = Json::array();
  for (std::size_t number = 0; number < blocks.size(); ++number) {
    const Layout::Place& place = layout.places()[number];
    list.push_back(Json::array({as_json(place.segment), place.offset, blocks[number].size()}));
  }
  return list;
}

// Each block with the numbers of those lists that it is in.
std::vector<Layout::Source> as_sources(std::span<const std::span<const std::byte>> blocks,
                                       std::span<const Numbers> lists) {
  std::vector<Layout::Source> sources;
  sources.reserve(blocks.size());
  for (const std::span<const std::byte> block : blocks) {
    sources.push_back({block, {}});
  }
  for (std::uint32_t list = 0; list < lists.size(); ++list) {
    for (const std::uint32_t block : lists[list]) {
      sources[block].roots.push_back(list);
    }
  }
  return sources;
}

void set_digests(Json& index, const FilePlan& plan, std::span<const std::string> digests) {
  Json segments = Json::array();
  Json blobs = Json::array();
  for (std::size_t number = 0; number < digests.size(); ++number) {
    const Range& part = plan.parts()[number];
    Json& list = number < plan.layout().segments().size() ? segments : blobs;
    list.push_back(Json::array({part.offset, part.nbytes, digests[number]}));
  }
  index["segments"] = std::move(segments);
  index["blobs"] = std::move(blobs);
}

// One behind the other, each at a multiple of 64 bytes from `offset` on, which is then the end of the last.
Json without_digests(std::span<const std::span<const std::byte>> parts, std::uint64_t& offset) {
  Json list = Json::array();
  for (const std::span<const std::byte> part : parts) {
    offset = aligned(offset, format::kAlignment);
    list.push_back(Json::array({offset, part.size(), nullptr}));
    offset += part.size();
  }
  return list;
}

// The index as text.
std::string as_index(const Json& index) {
  std::string text = index.dump();
  check_limit(text.size(), format::kMaxIndex, "the bytes of the index");
  return text;
}

bool is_packed(const Layout::Segment& segment) { return segment.runs.front().bytes.size() <= format::kLargeRun; }

// The bytes of segments whose runs are small, one after the other as `segments` has them.
using Packed = std::vector<std::vector<std::byte>>;

Packed packed(std::span<const Layout::Segment> segments) {
  Packed all;
  for (const Layout::Segment& segment : segments) {
    if (is_packed(segment)) {
      std::vector<std::byte>& copy = all.emplace_back(segment.nbytes);
      for (const Layout::Run& run : segment.runs) {
        std::ranges::copy(run.bytes, copy.begin() + static_cast<std::ptrdiff_t>(run.offset));
      }
    }
  }
  return all;
}

// As long as any other.
std::string no_digest() { return digest_of({}); }

// The file up to its data.
std::string header(const FilePlan& plan, std::uint64_t index_nbytes, const Json& metadata) {
  Json entries = Json::object();
  entries[format::kMetadata] = metadata;
  std::map<std::string_view, std::uint64_t> count;
  const auto add = [&](const std::string& name, const Json& dtype, const Json& shape, const Range& range) {
    entries[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {range.offset, range.offset + range.nbytes}}};
  };
  for (const Entry& entry : plan.entries()) {
    if (entry.tensor != nullptr) {
      add(entry.tensor->name, entry.tensor->dtype, entry.tensor->shape, entry.range);
    } else {
      add(std::string(entry.name) + std::to_string(count[entry.name]++), "U8", Json::array({entry.range.nbytes}),
          entry.range);
    }
  }
  add(std::string(format::kIndex), "U8", Json::array({index_nbytes}), {plan.end(), index_nbytes});
  std::string text = entries.dump();
  const std::uint64_t length = aligned(format::kLengthBytes + text.size(), format::kPage) - format::kLengthBytes;
  check_limit(length, format::kMaxHeader, "the bytes of the header");
  const json::Document readable(text, Error::Code::malformed_header, "the header");  // Not with too many values.
  text.resize(static_cast<std::size_t>(length), ' ');
  std::string prefix;
  for (std::uint64_t rest = length; prefix.size() < format::kLengthBytes; rest >>= 8U) {
    prefix += static_cast<char>(rest & 0xFFU);
  }
  return prefix + text;
}

void write_text(const NewFile& file, std::string_view text, std::uint64_t offset) {
  file.write(std::array{std::as_bytes(std::span(text))}, offset);
}

}  // namespace

// The index of what a writer has, but for its segments and blobs.
class IndexDraft {
 public:
  // `used`: of each root, the blocks that it uses.
  static Json of(const ImageWriter& image, const Layout& layout, std::span<const Numbers> used) {
    Json index{{"blocks", blocks_as_json(image.blocks_, layout)},
               {"tensors", as_json(image.tensors_)},
               {"roots", Json::array()},
               {"archives", Json::array()},
               {"programs", Json::array()},
               {"producer", image.producer_}};
    for (std::size_t number = 0; number < image.roots_.size(); ++number) {
      index["roots"].push_back(as_json(image.roots_[number], segments_of(used[number], layout),
                                       segments_of(image.host_blocks_[number], layout)));
    }
    for (const Archive& archive : image.archives_) {
      index["archives"].push_back(as_json(archive));
    }
    for (const Program& program : image.programs_) {
      index["programs"].push_back(as_json(program));
    }
    return index;
  }
};

ImageWriter::ImageWriter(std::string producer) : ImageWriter(std::move(producer), System::real()) {}

ImageWriter::ImageWriter(std::string producer, System& system) : system_(&system), producer_(std::move(producer)) {
  check_text(producer_, "the producer's name");
}

std::uint32_t ImageWriter::add_block(std::span<const std::byte> bytes) {
  const std::uint32_t number = next_number(blocks_.size(), format::kMaxValues, "blocks");
  blocks_.push_back(bytes);
  return number;
}

std::uint32_t ImageWriter::add_blob(std::span<const std::byte> bytes) {
  const std::uint32_t number = next_number(blobs_.size(), format::kMaxParts, "blobs");
  blobs_.push_back(bytes);
  return number;
}

void ImageWriter::add_tensor(Tensor tensor) {
  next_number(tensors_.size(), format::kMaxTensors, "tensors");
  if (tensor.name.starts_with(format::kReserved) || tensor.name == format::kMetadata) {
    refuse(Error::Code::reserved_name, "no tensor may have the name " + in_quotes(tensor.name));
  }
  check_tensor(tensor);
  if (!tensor_names_.insert(tensor.name).second) {
    refuse(Error::Code::duplicate_name, "there are two tensors " + in_quotes(tensor.name));
  }
  tensors_.push_back(std::move(tensor));
}

std::uint32_t ImageWriter::add_root(Root root, std::span<const std::uint32_t> host_blocks) {
  const std::uint32_t number = next_number(roots_.size(), format::kMaxParts, "roots");
  check_text(root.name, "the name of a root");
  const std::string whose = "the root " + in_quotes(root.name);
  check_blob(root.skeleton, whose);
  if (root.archive && *root.archive >= archives_.size()) {
    refuse(Error::Code::malformed_index, whose + " has the archive " + std::to_string(*root.archive) +
                                             ", and there are " + std::to_string(archives_.size()));
  }
  Numbers on_host = together({host_blocks.begin(), host_blocks.end()}, root.buffers);
  for (const std::uint32_t block : together(on_host, root.tensor_blocks)) {
    check_block(block, whose);
  }
  if (!root_names_.insert(root.name).second) {
    refuse(Error::Code::duplicate_name, "there are two roots " + in_quotes(root.name));
  }
  roots_.push_back(std::move(root));
  host_blocks_.push_back(std::move(on_host));
  return number;
}

std::uint32_t ImageWriter::add_archive(Archive archive) {
  const std::uint32_t number = next_number(archives_.size(), format::kMaxParts, "archives");
  const std::string whose = "the archive " + std::to_string(number);
  check_blob(archive.records, whose);
  if (archive.blocks.size() != archive.sizes.size()) {
    refuse(Error::Code::malformed_index, whose + " has " + std::to_string(archive.blocks.size()) + " blocks and " +
                                             std::to_string(archive.sizes.size()) + " sizes");
  }
  for (std::size_t storage = 0; storage < archive.blocks.size(); ++storage) {
    const std::uint32_t block = archive.blocks[storage];
    check_block(block, whose);
    if (archive.sizes[storage] > blocks_[block].size()) {
      refuse(Error::Code::out_of_bounds, whose + " needs " + std::to_string(archive.sizes[storage]) +
                                             " bytes of the block " + std::to_string(block) + ", which has " +
                                             std::to_string(blocks_[block].size()));
    }
  }
  std::set<std::uint64_t> modules;
  for (const ScriptModule& module : archive.modules) {
    if (!modules.insert(module.number).second) {
      refuse(Error::Code::malformed_index, whose + " has the module " + std::to_string(module.number) + " twice");
    }
    check_limit(std::max(module.number, module.place), format::kMaxNumber, "a number in " + whose);
    for (const std::string& name : module.submodules) {
      check_text(name, "the name of a submodule");
    }
  }
  archives_.push_back(std::move(archive));
  return number;
}

std::uint32_t ImageWriter::add_program(Program program) {
  const std::uint32_t number = next_number(programs_.size(), format::kMaxParts, "programs");
  const std::string whose = "the program " + std::to_string(number);
  check_blob(program.package, whose);
  check_limit(program.constants.size(), format::kMaxTensors, "constants in " + whose);
  std::set<std::string_view> names;
  for (const Tensor& constant : program.constants) {
    check_tensor(constant);
    if (!names.insert(constant.name).second) {
      refuse(Error::Code::duplicate_name, whose + " has two constants " + in_quotes(constant.name));
    }
  }
  programs_.push_back(std::move(program));
  return number;
}

void ImageWriter::add_metadata(std::string key, std::string value) {
  check_text(key, "a key of the metadata");
  check_text(value, "the metadata " + in_quotes(key));
  if (key.starts_with(format::kReserved) || key == format::kFormatKey) {
    refuse(Error::Code::reserved_name, "the metadata's key " + in_quotes(key) + " is the format's own");
  }
  if (metadata_.contains(key)) {
    refuse(Error::Code::duplicate_name, "the metadata has the key " + in_quotes(key) + " already");
  }
  metadata_.emplace(std::move(key), std::move(value));
}

std::string ImageWriter::write(const std::string& path, const WriteOptions& options) const {
  if (options.threads == 0 || options.threads > Prefault::max_threads) {
    refuse(Error::Code::bad_thread_count, "an image is written by 1 to " + std::to_string(Prefault::max_threads) +
                                              " threads, not " + std::to_string(options.threads));
  }
  check_limit(blocks_.size(), format::kMaxTensors, "blocks in an image");
  const std::vector<Numbers> used = used_blocks();
  const FilePlan plan(as_sources(blocks_, used), blobs_, tensors_);
  Json index = IndexDraft::of(*this, plan.layout(), used);
  // The header says how long the index is, and comes before the bytes whose digests are in the index.
  set_digests(index, plan, std::vector<std::string>(plan.parts().size(), no_digest()));
  const std::string draft = as_index(index);
  const json::Document readable(draft, Error::Code::malformed_index, "the index");  // Not with too many values.
  Json metadata(metadata_);
  metadata[format::kFormatKey] = format::kFormat;
  metadata[format::kVersionKey] = format::kVersion;
  metadata[format::kDigestKey] = no_digest();
  const std::uint64_t data = header(plan, draft.size(), metadata).size();

  NewFile file(path, *system_);
  set_digests(
      index, plan,
      write_digested(file, data, plan.pieces(), static_cast<std::uint32_t>(plan.parts().size()), options, *system_));
  const std::string index_text = index.dump();
  std::string digest = digest_of(std::as_bytes(std::span(index_text)));
  metadata[format::kDigestKey] = digest;
  write_text(file, index_text, data + plan.end());
  write_text(file, header(plan, draft.size(), metadata), 0);
  file.commit();
  return digest;
}

ImageParts ImageWriter::parts(const PartsOptions& options) const {
  const std::vector<Numbers> used = used_blocks();
  std::vector<Numbers> users = used;
  users.push_back(as_set(options.apart));
  for (const std::uint32_t block : users.back()) {
    check_block(block, "a list of blocks that lie apart");
  }
  const Layout layout(as_sources(blocks_, users), Layout::Form::parts, options.join);
  auto copies = std::make_shared<const Packed>(packed(layout.segments()));
  ImageParts parts;
  auto copy = copies->begin();
  for (const Layout::Segment& segment : layout.segments()) {
    parts.segments.push_back(is_packed(segment) ? std::span<const std::byte>(*copy++) : segment.runs.front().bytes);
  }
  parts.blobs = blobs_;
  parts.owner = std::move(copies);
  Json index = IndexDraft::of(*this, layout, used);
  std::uint64_t offset = 0;
  index["segments"] = without_digests(parts.segments, offset);
  index["blobs"] = without_digests(parts.blobs, offset);
  parts.index = as_index(index);
  return parts;
}

std::vector<ImageWriter::Numbers> ImageWriter::used_blocks() const {
  std::vector<Numbers> used;
  for (std::size_t number = 0; number < roots_.size(); ++number) {
    const Root& root = roots_[number];
    used.push_back(together(host_blocks_[number], root.tensor_blocks));
    if (root.archive) {
      used.back() = together(std::move(used.back()), archives_[*root.archive].blocks);
    }
  }
  return used;
}

void ImageWriter::check_block(std::uint32_t number, std::string_view whose) const {
  if (number >= blocks_.size()) {
    refuse(Error::Code::no_such_block, std::string(whose) + " needs the block " + std::to_string(number) +
                                           ", and there are " + std::to_string(blocks_.size()));
  }
}

void ImageWriter::check_blob(std::uint32_t number, std::string_view whose) const {
  if (number >= blobs_.size()) {
    refuse(Error::Code::no_such_blob, std::string(whose) + " needs the blob " + std::to_string(number) +
                                          ", and there are " + std::to_string(blobs_.size()));
  }
}

void ImageWriter::check_tensor(const Tensor& tensor) const {
  check_text(tensor.name, "the name of a tensor");
  const std::string whose = "the tensor " + in_quotes(tensor.name);
  check_block(tensor.block, whose);
  const format::Dtype* const dtype = format::find_dtype(tensor.dtype);
  if (dtype == nullptr) {
    refuse(Error::Code::malformed_index, whose + " has the unknown dtype " + in_quotes(tensor.dtype));
  }
  check_limit(tensor.shape.size(), format::kMaxDimensions, "dimensions of " + whose);
  if (tensor.shape.size() != tensor.strides.size()) {
    refuse(Error::Code::malformed_index, whose + " has " + std::to_string(tensor.shape.size()) + " dimensions and " +
                                             std::to_string(tensor.strides.size()) + " strides");
  }
  const auto item_size = static_cast<std::int64_t>(dtype->item_size);
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> steps;  // Bytes.
  std::uint64_t size = dtype->item_size;
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    check_limit(std::max(tensor.shape[axis], tensor.strides[axis]), format::kMaxNumber, "a length in " + whose);
    shape.push_back(static_cast<std::int64_t>(tensor.shape[axis]));
    steps.push_back(static_cast<std::int64_t>(tensor.strides[axis]) * item_size);
    size = fields::product(size, std::max<std::uint64_t>(tensor.shape[axis], 1));
  }
  check_limit(size, format::kMaxNumber, "the bytes of " + whose);
  const std::uint64_t nbytes = blocks_[tensor.block].size();
  if (tensor.offset > nbytes) {
    refuse(Error::Code::out_of_bounds,
           whose + " begins at byte " + std::to_string(tensor.offset) + " of " + std::to_string(nbytes));
  }
  try {
    check_placement({static_cast<std::int64_t>(tensor.offset), shape, steps, 1, item_size},
                    static_cast<std::int64_t>(nbytes));
  } catch (const Error& error) {
    throw Error(error.code(), whose + " does not lie within its block: " + error.what());
  }
}

}  // namespace zerocopy
