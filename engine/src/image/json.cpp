#include "image/json.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "image/format.h"

namespace zerocopy::json {
namespace {

constexpr unsigned kLengthBits = 32;

// Of a text, for each node: a little less than headers and indexes have.
constexpr std::size_t kBytesOfNode = 6;

// Few keys are compared with each other; more are sorted first.
constexpr std::size_t kFewKeys = 8;

// Writes what the parser finds into the nodes of a Document. Its members are those that nlohmann::json::sax_parse
// calls, and return true for it to go on.
class Builder {
 public:
  Builder(std::vector<Node>& nodes, std::string& texts, Error::Code malformed, std::string_view what)
      : nodes_(&nodes), texts_(&texts), malformed_(malformed), what_(what) {}

  bool null() { return add(Kind::null, 0); }
  bool boolean(bool value) { return add(Kind::boolean, value ? 1 : 0); }
  // NOLINTNEXTLINE(readability-convert-member-functions-to-static): the parser's interface. Called for signed numbers.
  bool number_integer(std::int64_t /*value*/) { refuse("has a number with a sign"); }
  bool number_unsigned(std::uint64_t value) {
    if (value > format::kMaxNumber) {
      refuse("has the number " + std::to_string(value) + ", which is larger than 2^53 - 1");
    }
    return add(Kind::number, value);
  }
  bool number_float(double /*value*/, const std::string& text) {
    refuse("has the number " + text + ", which is no integer, or larger than 2^53 - 1");
  }
  bool string(const std::string& text) { return add(Kind::string, stored(text)); }
  // NOLINTNEXTLINE(readability-convert-member-functions-to-static): the parser's interface, since 3.8 of it
  bool binary(const auto& /*value*/) { return false; }
  bool start_object(std::size_t /*size*/) { return open(Kind::object); }
  bool key(const std::string& text) { return append(Kind::string, stored(text)); }
  bool end_object() {
    check_keys(open_.back());
    return close();
  }
  bool start_array(std::size_t /*size*/) { return open(Kind::array); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t position, const std::string& /*token*/, const nlohmann::json::exception& /*error*/) {
    refuse("is no JSON at byte " + std::to_string(position));
  }

 private:
  [[noreturn]] void refuse(const std::string& problem) const {
    throw Error(malformed_, std::string(what_) + " " + problem);
  }

  // A value: an element, or a member's.
  bool add(Kind kind, std::uint64_t payload) {
    if (!open_.empty()) {
      ++(*nodes_)[open_.back()].payload;
    } else if (kind != Kind::object) {
      refuse("is no JSON object");
    }
    return append(kind, payload);
  }

  bool append(Kind kind, std::uint64_t payload) {
    if (nodes_->size() == format::kMaxValues) {
      throw Error(Error::Code::too_large,
                  std::string(what_) + " has more than " + std::to_string(format::kMaxValues) + " values");
    }
    nodes_->push_back({payload, static_cast<std::uint32_t>(nodes_->size() + 1), kind});
    return true;
  }

  bool open(Kind kind) {
    if (open_.size() == format::kMaxDepth) {
      refuse("is nested more deeply than " + std::to_string(format::kMaxDepth) + " levels");
    }
    add(kind, 0);
    open_.push_back(static_cast<std::uint32_t>(nodes_->size() - 1));
    return true;
  }

  bool close() {
    (*nodes_)[open_.back()].next = static_cast<std::uint32_t>(nodes_->size());
    open_.pop_back();
    return true;
  }

  std::uint64_t stored(const std::string& text) {
    const std::uint64_t offset = texts_->size();
    texts_->append(text);
    return offset << kLengthBits | text.size();
  }

  void check_keys(std::uint32_t object) {
    keys_.clear();
    for (Members members = Value(*nodes_, *texts_, object).members(); !members.empty();) {
      const std::string_view key = members.take().key;
      if (keys_.size() < kFewKeys && std::ranges::find(keys_, key) != keys_.end()) {
        refuse_twice(key);
      }
      keys_.push_back(key);
    }
    if (keys_.size() > kFewKeys) {
      std::ranges::sort(keys_);
      const auto twice = std::ranges::adjacent_find(keys_);
      if (twice != keys_.end()) {
        refuse_twice(*twice);
      }
    }
  }

  [[noreturn]] void refuse_twice(std::string_view key) const {
    throw Error(Error::Code::duplicate_name, std::string(what_) + " has the name \"" + std::string(key) + "\" twice");
  }

  std::vector<Node>* nodes_;
  std::string* texts_;
  Error::Code malformed_;
  std::string_view what_;
  std::vector<std::uint32_t> open_;     // The arrays and objects that are not complete, outermost first.
  std::vector<std::string_view> keys_;  // Of one object at a time.
};

}  // namespace

std::string_view Value::text() const noexcept {
  const std::uint64_t where = node().payload;
  return std::string_view(*texts_).substr(where >> kLengthBits, where & std::numeric_limits<std::uint32_t>::max());
}

Document::Document(std::string_view text, Error::Code malformed, std::string_view what) {
  if (text.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Error::Code::too_large, std::string(what) + " has " + std::to_string(text.size()) + " bytes");
  }
  // The parser would pass over a byte order mark, and take a zero byte for the text's end.
  if (!text.starts_with('{') || text.find('\0') != std::string_view::npos) {
    throw Error(malformed, std::string(what) + " is no JSON object");
  }
  texts_.reserve(text.size());  // No string is longer than its JSON.
  nodes_.reserve(std::min<std::size_t>(text.size() / kBytesOfNode, format::kMaxValues));
  Builder builder(nodes_, texts_, malformed, what);
  nlohmann::json::sax_parse(text, &builder);
}

}  // namespace zerocopy::json
