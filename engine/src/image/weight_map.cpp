#include "image/weight_map.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "image/format.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

constexpr std::string_view kWeightMap = "weight_map";

[[noreturn]] void refuse(const std::string& problem) { throw Error(Error::Code::malformed_index, problem); }

void check_limit(std::size_t count, std::uint64_t limit, const char* of_what) {
  if (count > limit) {
    throw Error(Error::Code::too_large, std::string("there are more than ") + std::to_string(limit) + " " + of_what);
  }
}

// Takes the members of the weight map from what the parser finds. Its members are those that nlohmann::json::sax_parse
// calls, and return true for it to go on. The parser keeps what is open on a heap: any depth is harmless.
class Reader {
 public:
  bool null() { return other(); }
  bool boolean(bool /*value*/) { return other(); }
  bool number_integer(std::int64_t /*value*/) { return other(); }
  bool number_unsigned(std::uint64_t /*value*/) { return other(); }
  bool number_float(double /*value*/, const std::string& /*text*/) { return other(); }
  // NOLINTNEXTLINE(readability-convert-member-functions-to-static): the parser's interface, since 3.8 of it
  bool binary(const auto& /*value*/) { return false; }
  bool string(const std::string& text) {
    if (!in_map()) {
      return other();
    }
    const auto [found, is_new] = numbers_.try_emplace(text, shards_.size());
    if (is_new) {
      check_limit(shards_.size() + 1, format::kMaxParts, "files");
      shards_.push_back({text, {}});
    }
    check_limit(++tensors_, format::kMaxTensors, "tensors");
    if (!names_.insert(key_).second) {
      throw Error(Error::Code::duplicate_name, "there are two tensors '" + key_ + "'");
    }
    shards_[found->second].tensors.insert(key_);
    return true;
  }
  bool start_object(std::size_t /*size*/) {
    if (depth_ == 1 && key_ == kWeightMap) {
      if (has_map_) {
        refuse("it has two \"weight_map\"");
      }
      has_map_ = true;
      in_map_ = true;
    } else {
      check_other();
    }
    ++depth_;
    return true;
  }
  bool key(const std::string& text) {
    if (depth_ == 1 || in_map()) {
      key_ = text;
    }
    return true;
  }
  bool end_object() { return close(); }
  bool start_array(std::size_t /*size*/) {
    check_other();
    ++depth_;
    return true;
  }
  bool end_array() { return close(); }
  // NOLINTNEXTLINE(readability-convert-member-functions-to-static): the parser's interface.
  bool parse_error(std::size_t position, const std::string& /*token*/, const nlohmann::json::exception& /*error*/) {
    refuse("it is no JSON at byte " + std::to_string(position));
  }

  std::vector<NamedShard> take() {
    if (!has_map_) {
      refuse("it has no \"weight_map\"");
    }
    return std::move(shards_);
  }

 private:
  [[nodiscard]] bool in_map() const noexcept { return in_map_ && depth_ == 2; }

  [[nodiscard]] bool other() const {
    check_other();
    return true;
  }

  // Refuses a value that is neither the weight map nor the name of a file in it where one of these must be.
  void check_other() const {
    if (in_map()) {
      refuse("it does not give the name of a file for the tensor '" + key_ + "'");
    }
    if (depth_ == 1 && key_ == kWeightMap) {
      refuse("its \"weight_map\" is no object");
    }
  }

  bool close() noexcept {
    --depth_;
    if (depth_ == 1) {
      in_map_ = false;
    }
    return true;
  }

  std::vector<NamedShard> shards_;
  std::map<std::string, std::size_t, std::less<>> numbers_;  // Of the shards, by their files.
  std::set<std::string, std::less<>> names_;
  std::size_t tensors_ = 0;
  std::string key_;  // The last one of the outermost object, or of the map.
  std::size_t depth_ = 0;
  bool has_map_ = false;
  bool in_map_ = false;
};

}  // namespace

std::vector<NamedShard> read_weight_map(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) {  // The parser would take it for the text's end.
    refuse("it has a zero byte");
  }
  Reader reader;
  nlohmann::json::sax_parse(text, &reader);
  return reader.take();
}

}  // namespace zerocopy
