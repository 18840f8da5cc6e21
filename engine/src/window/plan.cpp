#include "window/plan.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <map>
#include <optional>

#include "system/system.h"
#include "window/mapping.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

std::string in_hex(std::uintptr_t address) {
  std::array<char, 2 * sizeof address> digits{};
  const auto [end, error] = std::to_chars(digits.begin(), digits.end(), address, 16);
  return "0x" + std::string(digits.begin(), end);
}

void check(std::span<const std::byte> segment, std::size_t index, std::size_t page_size) {
  const std::uintptr_t begin = address_of(segment.data());
  const std::uintptr_t last = std::numeric_limits<std::uintptr_t>::max() - page_size;
  if (begin == 0 || begin > last || segment.size() > last - begin) {
    throw Error(Error::Code::bad_segment, "segment " + std::to_string(index) + " cannot have " +
                                              std::to_string(segment.size()) + " bytes at " + in_hex(begin));
  }
}

// Whether a segment may be copied for that; else it is the caller's mistake.
bool calls_for_a_copy(const Error& error) {
  return error.code() != Error::Code::bad_segment && error.code() != Error::Code::unmapped_segment;
}

// Says which files lie at an address. Each file is searched for once, whether it is found or not.
class Files {
 public:
  explicit Files(System& system) : system_(&system), mappings_(system) {}

  // Those in `range`, whole pages. Throws Error: what calls for a copy, or unmapped_segment.
  std::vector<FilePart> under(const PageRange& range) {
    std::vector<FilePart> parts;
    for (std::uintptr_t at = range.begin; at < range.end;) {
      const std::optional<Mapping> mapping = mappings_.find(at);
      if (!mapping || !mapping->readable) {
        throw Error(Error::Code::unmapped_segment, "no readable memory is mapped at " + in_hex(at));
      }
      if (!mapping->shared || mapping->file.inode == 0) {
        throw Error(Error::Code::not_shared,
                    "the bytes at " + in_hex(at) + " lie in private memory, not in a shared file");
      }
      const std::uint64_t page_size = system_->page_size();
      for (const std::uint64_t number : {mapping->begin, mapping->end, mapping->offset}) {
        if (number % page_size != 0) {
          throw Error(Error::Code::malformed_maps, "the mapping at " + in_hex(at) + " is not one of whole pages");
        }
      }
      const std::uintptr_t end = std::min(range.end, mapping->end);
      const Found& found = this->found(mapping->file);
      // In pages, of which there are fewer than 64 bits can count.
      const std::uint64_t first_page = mapping->offset / page_size + (at - mapping->begin) / page_size;
      FilePart part{found.file, first_page * page_size, end - at};
      if (first_page + part.length / page_size > found.mappable_pages) {
        throw Error(Error::Code::unmapped_segment, "the file mapped at " + in_hex(at) + " ends before " + in_hex(end));
      }
      append(parts, std::move(part));
      at = end;
    }
    return parts;
  }

  static void append(std::vector<FilePart>& parts, FilePart next) {
    if (!parts.empty() && parts.back().file == next.file && parts.back().offset + parts.back().length == next.offset) {
      parts.back().length += next.length;
    } else {
      parts.push_back(std::move(next));
    }
  }

 private:
  struct Found {
    std::shared_ptr<const BackingFile> file;
    std::uint64_t mappable_pages = 0;
    std::optional<Error> error;
  };

  const Found& found(const FileId& id) {
    const auto [entry, is_new] = found_.try_emplace(id);
    Found& found = entry->second;
    if (is_new) {
      try {
        found.file = BackingFile::find(id, *system_);
        const std::uint64_t size = found.file->size();
        const std::uint64_t page_size = system_->page_size();
        found.mappable_pages = size / page_size + (size % page_size != 0 ? 1 : 0);
      } catch (const Error& error) {
        found.error = error;
      }
    }
    if (found.error) {
      throw Error(*found.error);
    }
    return found;
  }

  System* system_;
  Mappings mappings_;
  std::map<FileId, Found> found_;
};

}  // namespace

Plan make_plan(std::span<const std::span<const std::byte>> segments, System& system) {
  const std::size_t page_size = system.page_size();
  std::vector<std::size_t> by_address;
  for (std::size_t index = 0; index < segments.size(); ++index) {
    if (!segments[index].empty()) {
      check(segments[index], index, page_size);
      by_address.push_back(index);
    }
  }
  std::ranges::sort(by_address, {}, [&](std::size_t index) { return address_of(segments[index].data()); });

  Plan plan;
  Files files(system);
  for (const std::size_t index : by_address) {
    PageRange pages = PageRange::around(segments[index], page_size);
    PlannedRegion* before = plan.regions.empty() ? nullptr : &plan.regions.back();
    if (before != nullptr && before->source.end < pages.begin) {
      before = nullptr;
    }
    if (before != nullptr) {
      pages.begin = std::min(before->source.end, pages.end);  // The rest is in the region already.
    }
    try {
      std::vector<FilePart> parts = files.under(pages);
      if (before == nullptr) {
        before = &plan.regions.emplace_back(PlannedRegion{pages, {}, {}});
      }
      for (FilePart& part : parts) {
        Files::append(before->parts, std::move(part));
      }
      before->source.end = std::max(before->source.end, pages.end);
      before->segments.push_back(index);
    } catch (const Error& error) {
      if (!calls_for_a_copy(error)) {
        throw;
      }
      plan.copied.push_back(index);
      if (plan.reason.empty()) {
        plan.reason = error.what();
        plan.code = error.code();
      }
    }
  }
  return plan;
}

}  // namespace zerocopy
