// JSON from outside, checked and then kept as a tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "zerocopy/error.h"

namespace zerocopy::json {

enum class Kind : std::uint8_t { null, boolean, number, string, array, object };

// One value of each kind in as little memory as possible: there may be millions. A value is followed by all that is in
// it; a member of an object is two values, its key and its value.
struct Node {
  std::uint64_t payload = 0;  // The number, 0 or 1, the number of elements or members, or where the text is.
  std::uint32_t next = 0;     // The index of the first node that is not in this value.
  Kind kind = Kind::null;
};

class Elements;
class Members;

// A value in a Document, which must outlive it. The members without a check in their names may be called for their kind
// only.
class Value {
 public:
  Value(const std::vector<Node>& nodes, const std::string& texts, std::uint32_t index) noexcept
      : nodes_(&nodes), texts_(&texts), index_(index) {}

  [[nodiscard]] Kind kind() const noexcept { return node().kind; }
  [[nodiscard]] bool is(Kind kind) const noexcept { return node().kind == kind; }
  [[nodiscard]] bool boolean() const noexcept { return node().payload != 0; }
  [[nodiscard]] std::uint64_t number() const noexcept { return node().payload; }
  [[nodiscard]] std::string_view text() const noexcept;
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(node().payload); }
  [[nodiscard]] Elements elements() const noexcept;
  [[nodiscard]] Members members() const noexcept;

 private:
  friend class Elements;
  friend class Members;

  [[nodiscard]] const Node& node() const noexcept { return (*nodes_)[index_]; }
  [[nodiscard]] Value at(std::uint32_t index) const noexcept { return {*nodes_, *texts_, index}; }

  const std::vector<Node>* nodes_;
  const std::string* texts_;
  std::uint32_t index_;
};

// The elements of an array, to be gone through.
class Elements {
 public:
  explicit Elements(const Value& array) noexcept : next_(array.at(array.index_ + 1)), left_(array.size()) {}

  [[nodiscard]] bool empty() const noexcept { return left_ == 0; }

  // REQUIRES: not empty().
  Value take() noexcept {
    const Value taken = next_;
    next_ = taken.at(taken.node().next);
    --left_;
    return taken;
  }

 private:
  Value next_;  // There is none when none are left.
  std::size_t left_;
};

struct Member {
  std::string_view key;
  Value value;
};

// The members of an object, likewise, in their order. No two have the same key.
class Members {
 public:
  explicit Members(const Value& object) noexcept : next_(object.at(object.index_ + 1)), left_(object.size()) {}

  [[nodiscard]] bool empty() const noexcept { return left_ == 0; }

  // REQUIRES: not empty().
  Member take() noexcept {
    const Value key = next_;
    const Value value = key.at(key.node().next);
    next_ = value.at(value.node().next);
    --left_;
    return {key.text(), value};
  }

 private:
  Value next_;  // The next key; there is none when none are left.
  std::size_t left_;
};

inline Elements Value::elements() const noexcept { return Elements(*this); }
inline Members Value::members() const noexcept { return Members(*this); }

// A text of JSON (RFC 8259) whose outermost value is an object, and whose numbers are integers without a sign, of at
// most 2^53 - 1. Immutable; any thread may use it.
class Document {
 public:
  // Throws Error: `malformed` when the text is not that, or is nested more deeply than the format allows;
  // duplicate_name when an object has a key twice; too_large when there are more values than the format allows. `what`
  // is what the messages call the text.
  Document(std::string_view text, Error::Code malformed, std::string_view what);
  Document(Document&&) = delete;
  Document& operator=(Document&&) = delete;
  Document(const Document&) = delete;
  Document& operator=(const Document&) = delete;
  ~Document() = default;

  [[nodiscard]] Value root() const noexcept { return {nodes_, texts_, 0}; }

 private:
  std::vector<Node> nodes_;
  std::string texts_;
};

}  // namespace zerocopy::json
