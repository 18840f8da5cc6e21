#include "image/file_plan.h"

#include <array>

#include "image/format.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

constexpr std::array<std::byte, format::kPage> kZeros{};

bool is_contiguous(const Tensor& tensor) {
  std::uint64_t stride = 1;
  for (std::size_t axis = tensor.shape.size(); axis-- > 0;) {
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != stride) {
      return false;
    }
    stride *= tensor.shape[axis];
  }
  return true;
}

// REQUIRES: the tensor is contiguous and lies within its block.
std::uint64_t nbytes_of(const Tensor& tensor, const format::Dtype& dtype) {
  std::uint64_t nbytes = dtype.item_size;
  for (const std::uint64_t length : tensor.shape) {
    nbytes *= length;
  }
  return nbytes;
}

}  // namespace

FilePlan::FilePlan(std::span<const Layout::Source> blocks, std::span<const std::span<const std::byte>> blobs,
                   std::span<const Tensor> tensors)
    : layout_(blocks) {
  if (layout_.segments().size() > format::kMaxParts) {
    throw Error(Error::Code::too_large, "an image of these roots has " + std::to_string(layout_.segments().size()) +
                                            " segments, and " + std::to_string(format::kMaxParts) + " is the limit");
  }
  const Places readable = readable_tensors(tensors);
  std::uint32_t part = 0;
  for (const Layout::Segment& segment : layout_.segments()) {
    const std::uint64_t start = end_;
    for (const Layout::Run& run : segment.runs) {
      pad_to(start + run.offset, part);
      const auto found = readable.find({part, run.offset});
      add(format::kRun, found == readable.end() ? nullptr : found->second, run.bytes, part);
    }
    pad_to(start + segment.nbytes, part);
    parts_.push_back({start, segment.nbytes});
    ++part;
  }
  for (const std::span<const std::byte> blob : blobs) {
    pad_to(aligned(end_, format::kAlignment), std::nullopt);
    parts_.push_back({end_, blob.size()});
    add(format::kBlob, nullptr, blob, part);
    ++part;
  }
  pad_to(aligned(end_, format::kAlignment), std::nullopt);
}

// Those that safetensors can read because they are a whole run, by the run's segment and its offset in that. Of several
// the first.
FilePlan::Places FilePlan::readable_tensors(std::span<const Tensor> tensors) const {
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::uint64_t> runs;
  for (std::uint32_t segment = 0; segment < layout_.segments().size(); ++segment) {
    for (const Layout::Run& run : layout_.segments()[segment].runs) {
      runs.try_emplace({segment, run.offset}, run.bytes.size());
    }
  }
  Places readable;
  for (const Tensor& tensor : tensors) {
    const format::Dtype* const dtype = format::find_dtype(tensor.dtype);
    const Layout::Place& place = layout_.places()[tensor.block];
    if (place.segment && dtype->in_header && is_contiguous(tensor)) {
      const auto run = runs.find({*place.segment, place.offset + tensor.offset});
      if (run != runs.end() && run->second == nbytes_of(tensor, *dtype)) {
        readable.try_emplace(run->first, &tensor);
      }
    }
  }
  return readable;
}

void FilePlan::add(std::string_view name, const Tensor* tensor, std::span<const std::byte> bytes,
                   std::optional<std::uint32_t> part) {
  entries_.push_back({name, tensor, {end_, bytes.size()}});
  if (!bytes.empty()) {
    pieces_.push_back({bytes, part});
  }
  end_ += bytes.size();
}

void FilePlan::pad_to(std::uint64_t offset, std::optional<std::uint32_t> part) {
  if (offset != end_) {
    add(format::kPadding, nullptr, std::span(kZeros).first(static_cast<std::size_t>(offset - end_)), part);
  }
}

}  // namespace zerocopy
