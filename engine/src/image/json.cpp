#include "image/json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <system_error>

#include "image/format.h"

namespace zerocopy::json {
namespace {

constexpr unsigned kLengthBits = 32;

// Few keys are compared with each other; more are sorted first.
constexpr std::size_t kFewKeys = 8;

// Of a text, for each node: a little less than headers and indexes have.
constexpr std::size_t kBytesOfNode = 6;

constexpr std::uint32_t kFirstHighSurrogate = 0xD800;
constexpr std::uint32_t kFirstLowSurrogate = 0xDC00;
constexpr std::uint32_t kLastLowSurrogate = 0xDFFF;
constexpr unsigned kSurrogateBits = 10;
constexpr std::uint32_t kFirstBehindTwoBytes = 0x10000;

// The bytes that may follow the first one of a character of UTF-8 (RFC 3629, section 4): how many, and which the first
// of them may be. The others are 80 to BF.
struct Continuation {
  unsigned count;
  unsigned char lowest;
  unsigned char highest;
};

Continuation continuation_of(unsigned char first) noexcept {
  if (first >= 0xC2 && first <= 0xDF) {
    return {1, 0x80, 0xBF};
  }
  if (first >= 0xE0 && first <= 0xEF) {
    return {2, static_cast<unsigned char>(first == 0xE0 ? 0xA0 : 0x80),
            static_cast<unsigned char>(first == 0xED ? 0x9F : 0xBF)};
  }
  if (first >= 0xF0 && first <= 0xF4) {
    return {3, static_cast<unsigned char>(first == 0xF0 ? 0x90 : 0x80),
            static_cast<unsigned char>(first == 0xF4 ? 0x8F : 0xBF)};
  }
  return {0, 0, 0};  // No character begins so.
}

void append_utf8(std::string& text, std::uint32_t character) {
  const auto add = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (character < 0x80) {
    add(character);
  } else if (character < 0x800) {
    add(0xC0U | character >> 6U);
    add(0x80U | (character & 0x3FU));
  } else if (character < kFirstBehindTwoBytes) {
    add(0xE0U | character >> 12U);
    add(0x80U | (character >> 6U & 0x3FU));
    add(0x80U | (character & 0x3FU));
  } else {
    add(0xF0U | character >> 18U);
    add(0x80U | (character >> 12U & 0x3FU));
    add(0x80U | (character >> 6U & 0x3FU));
    add(0x80U | (character & 0x3FU));
  }
}

// Reads a text into the nodes of a Document, in one pass. It is not the library that writes JSON here, since that takes
// several times as long to read it, passes over a byte order mark, and takes a zero byte for the end.
class Parser {
 public:
  Parser(std::string_view text, Error::Code malformed, std::string_view what, std::vector<Node>& nodes,
         std::string& texts)
      : text_(text), malformed_(malformed), what_(what), nodes_(&nodes), texts_(&texts) {}

  void parse() {
    if (!is_next('{')) {
      refuse("is no JSON object");
    }
    read_value(0);
    skip_space();
    if (at_ != text_.size()) {
      refuse_here();
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& problem) const {
    throw Error(malformed_, std::string(what_) + " " + problem);
  }

  [[noreturn]] void refuse_here() const { refuse("is no JSON at byte " + std::to_string(at_)); }

  [[nodiscard]] bool is_next(char expected) const noexcept { return at_ < text_.size() && text_[at_] == expected; }

  [[nodiscard]] bool is_digit_next() const noexcept {
    return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9';
  }

  bool take(char expected) noexcept {
    const bool taken = is_next(expected);
    at_ += taken ? 1 : 0;
    return taken;
  }

  bool take(std::string_view word) noexcept {
    const bool taken = text_.substr(at_).starts_with(word);
    at_ += taken ? word.size() : 0;
    return taken;
  }

  void expect(char expected) {
    if (!take(expected)) {
      refuse_here();
    }
  }

  void skip_space() noexcept {
    while (is_next(' ') || is_next('\n') || is_next('\t') || is_next('\r')) {
      ++at_;
    }
  }

  // Returns the node's index.
  std::uint32_t append(Kind kind, std::uint64_t payload) {
    if (nodes_->size() == format::kMaxValues) {
      throw Error(Error::Code::too_large,
                  std::string(what_) + " has more than " + std::to_string(format::kMaxValues) + " values");
    }
    const auto index = static_cast<std::uint32_t>(nodes_->size());
    nodes_->push_back({payload, index + 1, kind});
    return index;
  }

  // `depth`: how many arrays and objects the value is in.
  void read_value(unsigned depth) {  // NOLINT(misc-no-recursion): not deeper than the format allows.
    skip_space();
    if (take('{')) {
      read_members(open(Kind::object, depth), depth + 1);
    } else if (take('[')) {
      read_elements(open(Kind::array, depth), depth + 1);
    } else if (is_next('"')) {
      append(Kind::string, read_string());
    } else if (is_digit_next()) {
      append(Kind::number, read_number());
    } else if (is_next('-')) {
      refuse("has a number with a sign at byte " + std::to_string(at_));
    } else if (take("true")) {
      append(Kind::boolean, 1);
    } else if (take("false")) {
      append(Kind::boolean, 0);
    } else if (take("null")) {
      append(Kind::null, 0);
    } else {
      refuse_here();
    }
  }

  std::uint32_t open(Kind kind, unsigned depth) {
    if (depth == format::kMaxDepth) {
      refuse("is nested more deeply than " + std::to_string(format::kMaxDepth) + " levels");
    }
    return append(kind, 0);
  }

  // Up to and with the end of the object or array, whose node is at `index`.
  void read_members(std::uint32_t index, unsigned depth) {  // NOLINT(misc-no-recursion)
    skip_space();
    for (std::uint64_t count = 0; !ends(index, '}', count); ++count) {
      append(Kind::string, read_string());
      skip_space();
      expect(':');
      read_value(depth);
      skip_space();
    }
    check_keys(index);
  }

  void read_elements(std::uint32_t index, unsigned depth) {  // NOLINT(misc-no-recursion)
    skip_space();
    for (std::uint64_t count = 0; !ends(index, ']', count); ++count) {
      read_value(depth);
      skip_space();
    }
  }

  // Whether the object or array ends here, with that many members or elements; if not, another one follows.
  bool ends(std::uint32_t index, char end, std::uint64_t count) {
    if (take(end)) {
      (*nodes_)[index].payload = count;
      (*nodes_)[index].next = static_cast<std::uint32_t>(nodes_->size());
      return true;
    }
    if (count != 0) {
      expect(',');
      skip_space();
    }
    return false;
  }

  std::uint64_t read_number() {
    const std::size_t begin = at_;
    std::uint64_t number = 0;
    while (is_digit_next()) {
      number = 10 * number + static_cast<std::uint64_t>(text_[at_++] - '0');
      if (number > format::kMaxNumber) {
        refuse("has a number larger than 2^53 - 1 at byte " + std::to_string(begin));
      }
    }
    if (is_next('.') || is_next('e') || is_next('E')) {
      refuse("has a number that is no integer at byte " + std::to_string(begin));
    }
    if (text_[begin] == '0' && at_ != begin + 1) {
      refuse_here();
    }
    return number;
  }

  // Returns where in the Document's texts the string is, and how long it is.
  std::uint64_t read_string() {
    expect('"');
    const std::uint64_t offset = texts_->size();
    while (!take('"')) {
      const std::size_t begin = at_;
      while (at_ < text_.size() && is_plain(text_[at_])) {
        ++at_;
      }
      texts_->append(text_, begin, at_ - begin);
      if (take('\\')) {
        read_escape();
      } else if (!is_next('"')) {
        read_character();
      }
    }
    return offset << kLengthBits | (texts_->size() - offset);
  }

  // ASCII that stands for itself.
  static bool is_plain(char character) noexcept {
    const auto byte = static_cast<unsigned char>(character);
    return byte >= 0x20 && byte < 0x80 && character != '"' && character != '\\';
  }

  // One that is not ASCII.
  void read_character() {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(at < text_.size() ? text_[at] : '\0'); };
    const auto [count, lowest, highest] = continuation_of(byte(at_));
    bool is_one = count != 0 && byte(at_ + 1) >= lowest && byte(at_ + 1) <= highest;
    for (unsigned nth = 2; nth <= count; ++nth) {
      is_one = is_one && (byte(at_ + nth) & 0xC0U) == 0x80;
    }
    if (!is_one) {
      refuse_here();
    }
    texts_->append(text_, at_, 1 + count);
    at_ += 1 + count;
  }

  void read_escape() {
    static constexpr std::string_view kEscaped = "\"\\/bfnrt";
    static constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
    if (at_ == text_.size()) {
      refuse_here();
    }
    if (take('u')) {
      append_utf8(*texts_, read_escaped_character());
      return;
    }
    const std::size_t found = kEscaped.find(text_[at_]);
    if (found == std::string_view::npos) {
      refuse_here();
    }
    *texts_ += kMeant[found];
    ++at_;
  }

  // Four hexadecimal digits, or twice that for a character of two surrogates.
  std::uint32_t read_escaped_character() {
    const std::uint32_t first = read_hexadecimal();
    if (first < kFirstHighSurrogate || first > kLastLowSurrogate) {
      return first;
    }
    if (first >= kFirstLowSurrogate || !take("\\u")) {
      refuse_here();
    }
    const std::uint32_t second = read_hexadecimal();
    if (second < kFirstLowSurrogate || second > kLastLowSurrogate) {
      refuse_here();
    }
    return kFirstBehindTwoBytes + ((first - kFirstHighSurrogate) << kSurrogateBits | (second - kFirstLowSurrogate));
  }

  std::uint32_t read_hexadecimal() {
    constexpr std::size_t digits = 4;
    constexpr int base = 16;
    const std::string_view text = text_.substr(at_, digits);
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
    if (text.size() != digits || error != std::errc{} || end != text.data() + digits) {
      refuse_here();
    }
    at_ += digits;
    return number;
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

  std::string_view text_;
  std::size_t at_ = 0;
  Error::Code malformed_;
  std::string_view what_;
  std::vector<Node>* nodes_;
  std::string* texts_;
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
  texts_.reserve(text.size());  // No string is longer than its JSON.
  nodes_.reserve(std::min<std::size_t>(text.size() / kBytesOfNode, format::kMaxValues));
  Parser(text, malformed, what, nodes_, texts_).parse();
}

}  // namespace zerocopy::json
