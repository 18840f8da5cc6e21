// The header of a safetensors file that is an image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "image/entries.h"
#include "image/json.h"

namespace zerocopy {

// What a file's header says, checked by itself and against the file's length. The index has been compared with its
// digest. Immutable.
class Header {
 public:
  // Reads it from all of a file's bytes, which are needed no more afterwards. Throws Error as Image::open does.
  explicit Header(std::span<const std::byte> file);

  [[nodiscard]] std::span<const TensorEntry> tensors() const noexcept { return tensors_; }
  [[nodiscard]] std::span<const Range> runs() const noexcept { return runs_; }
  // By their numbers.
  [[nodiscard]] const std::map<std::uint64_t, Range>& blobs() const noexcept { return blobs_; }
  // The users' own.
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& metadata() const noexcept { return metadata_; }
  [[nodiscard]] const std::string& digest() const noexcept { return digest_; }

  // Where in the file the data begins.
  [[nodiscard]] std::uint64_t data() const noexcept { return data_; }
  [[nodiscard]] const Range& index() const noexcept { return index_; }

  // The index's bytes: a copy, so that they are the ones that were compared, whatever becomes of the file.
  [[nodiscard]] const std::string& index_text() const noexcept { return index_text_; }

 private:
  void read_metadata(const json::Value& metadata);
  void read_entry(std::string_view name, const json::Value& value);
  void add_reserved(std::string_view name, const Range& range);
  void read_index(std::span<const std::byte> data);

  std::unique_ptr<const json::Document> document_;
  std::vector<TensorEntry> tensors_;
  std::vector<Range> ranges_;  // Of all entries.
  std::vector<Range> runs_;
  std::map<std::uint64_t, Range> blobs_;
  std::map<std::string, std::string, std::less<>> metadata_;
  std::string digest_;
  std::uint64_t data_ = 0;
  bool has_index_ = false;
  Range index_;
  std::string index_text_;
};

}  // namespace zerocopy
