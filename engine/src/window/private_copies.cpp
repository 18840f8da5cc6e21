#include "window/private_copies.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "system/page_range.h"

namespace zerocopy {

PrivateCopies::PrivateCopies(const std::vector<std::span<const std::byte>>& sources) : copies_(sources.size()) {
  std::vector<std::size_t> by_address(sources.size());
  std::iota(by_address.begin(), by_address.end(), std::size_t{0});
  std::ranges::sort(by_address, {}, [&](std::size_t index) { return address_of(sources[index].data()); });

  constexpr auto alignment = static_cast<std::size_t>(kAlignment);
  std::vector<std::size_t> offsets(sources.size());
  std::size_t length = 0;
  for (const std::size_t index : by_address) {
    const std::span<const std::byte> source = sources[index];
    const std::uintptr_t begin = address_of(source.data());
    if (blocks_.empty() || begin >= address_of(blocks_.back().source.data()) + blocks_.back().source.size()) {
      length = (length + alignment - 1) / alignment * alignment;
      blocks_.push_back({source, length});
    }
    Block& block = blocks_.back();
    const std::size_t within = begin - address_of(block.source.data());
    block.source = {block.source.data(), std::max(block.source.size(), within + source.size())};
    offsets[index] = block.offset + within;
    length = block.offset + block.source.size();
  }

  bytes_.reset(static_cast<std::byte*>(::operator new(length, kAlignment)));
  for (std::size_t index = 0; index < sources.size(); ++index) {
    copies_[index] = {bytes_.get() + offsets[index], sources[index].size()};
  }
  copy_again();
}

void PrivateCopies::copy_again() noexcept {
  for (const Block& block : blocks_) {
    std::memcpy(bytes_.get() + block.offset, block.source.data(), block.source.size());
  }
}

}  // namespace zerocopy
