// What JSON from outside is to be, asked for field by field.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "image/format.h"
#include "image/json.h"
#include "zerocopy/error.h"

namespace zerocopy::fields {

// Reads a description. All members throw Error with the code that is given here when something is not what it has to
// be; `what` is how the message names it.
class Reader {
 public:
  // `most_indices` is how many elements an array of indices may have.
  explicit constexpr Reader(Error::Code malformed, std::uint64_t most_indices = format::kMaxTensors) noexcept
      : malformed_(malformed), most_indices_(most_indices) {}

  [[noreturn]] void refuse(const std::string& problem) const;

  // Refuses a value of any other kind.
  void expect(const json::Value& value, json::Kind kind, std::string_view what) const;

  [[nodiscard]] std::uint64_t number(const json::Value& value, std::string_view what) const;
  [[nodiscard]] std::string_view text(const json::Value& value, std::string_view what) const;

  // The elements of an array of exactly that many.
  [[nodiscard]] json::Elements tuple(const json::Value& value, std::size_t size, std::string_view what) const;

  // The elements of an array of at most that many (else too_large).
  [[nodiscard]] json::Elements array(const json::Value& value, std::uint64_t at_most, std::string_view what) const;

  // The members of an object of at most that many (else too_large).
  [[nodiscard]] json::Members object(const json::Value& value, std::uint64_t at_most, std::string_view what) const;

  // Puts the values of an object with exactly these members into `found`, in the order of the names.
  void record(const json::Value& value, std::span<const std::string_view> names, std::span<json::Value> found,
              std::string_view what) const;

  // The same, as an array of that size.
  template <std::size_t size>
  [[nodiscard]] std::array<json::Value, size> record(const json::Value& value,
                                                     const std::array<std::string_view, size>& names,
                                                     std::string_view what) const {
    auto found = [&]<std::size_t... Nth>(std::index_sequence<Nth...>) {
      return std::array<json::Value, size>{(static_cast<void>(Nth), value)...};
    }(std::make_index_sequence<size>());
    record(value, names, found, what);
    return found;
  }

  // A number that is smaller than `count`.
  [[nodiscard]] std::uint32_t index(const json::Value& value, std::size_t count, std::string_view what) const;

  // An array of such numbers.
  [[nodiscard]] std::vector<std::uint32_t> indices(const json::Value& value, std::size_t count,
                                                   std::string_view what) const;

  // A shape, or strides: at most as many numbers as there may be dimensions (else too_large).
  [[nodiscard]] std::vector<std::uint64_t> dimensions(const json::Value& value, std::string_view what) const;

  // How many bytes the elements of a shape take, one after the other. Refused when a number of the format could not say
  // it, even if dimensions without elements had one.
  [[nodiscard]] std::uint64_t size(std::span<const std::uint64_t> shape, std::uint64_t item_size) const;

 private:
  Error::Code malformed_;
  std::uint64_t most_indices_;
};

// The product or sum of two numbers, or the largest number of 64 bits when it is larger.
std::uint64_t product(std::uint64_t one, std::uint64_t other) noexcept;
std::uint64_t sum(std::uint64_t one, std::uint64_t other) noexcept;

// Whether `nbytes` bytes at `offset` lie within `size` bytes.
inline bool within(std::uint64_t offset, std::uint64_t nbytes, std::uint64_t size) noexcept {
  return offset <= size && nbytes <= size - offset;
}

// Does what is passed, with a description in front of the message of an Error.
template <typename Described, typename Body>
void in(Described described, Body body) {
  try {
    body();
  } catch (const Error& error) {
    throw Error(error.code(), described() + ": " + error.what(), error.system_error());
  }
}

}  // namespace zerocopy::fields
