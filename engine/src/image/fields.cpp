#include "image/fields.h"

#include <algorithm>
#include <array>

#include "image/format.h"

namespace zerocopy::fields {
namespace {

constexpr std::array<std::string_view, 6> kKinds{"null",     "true or false", "a number",
                                                 "a string", "an array",      "an object"};

void check_count(std::size_t count, std::uint64_t at_most, std::string_view what) {
  if (count > at_most) {
    throw Error(Error::Code::too_large, std::string(what) + " has " + std::to_string(count) +
                                            " entries; the format allows " + std::to_string(at_most));
  }
}

}  // namespace

void Reader::refuse(const std::string& problem) const { throw Error(malformed_, problem); }

void Reader::expect(const json::Value& value, json::Kind kind, std::string_view what) const {
  if (!value.is(kind)) {
    refuse(std::string(what) + " is " + std::string(kKinds.at(static_cast<std::size_t>(value.kind()))) +
           " instead of " + std::string(kKinds.at(static_cast<std::size_t>(kind))));
  }
}

std::uint64_t Reader::number(const json::Value& value, std::string_view what) const {
  expect(value, json::Kind::number, what);
  return value.number();
}

std::string_view Reader::text(const json::Value& value, std::string_view what) const {
  expect(value, json::Kind::string, what);
  return value.text();
}

json::Elements Reader::tuple(const json::Value& value, std::size_t size, std::string_view what) const {
  expect(value, json::Kind::array, what);
  if (value.size() != size) {
    refuse(std::string(what) + " has " + std::to_string(value.size()) + " elements instead of " + std::to_string(size));
  }
  return value.elements();
}

json::Elements Reader::array(const json::Value& value, std::uint64_t at_most, std::string_view what) const {
  expect(value, json::Kind::array, what);
  check_count(value.size(), at_most, what);
  return value.elements();
}

json::Members Reader::object(const json::Value& value, std::uint64_t at_most, std::string_view what) const {
  expect(value, json::Kind::object, what);
  check_count(value.size(), at_most, what);
  return value.members();
}

void Reader::record(const json::Value& value, std::span<const std::string_view> names, std::span<json::Value> found,
                    std::string_view what) const {
  expect(value, json::Kind::object, what);
  for (json::Members members = value.members(); !members.empty();) {
    const auto [key, member] = members.take();
    const auto name = std::ranges::find(names, key);
    if (name == names.end()) {
      refuse(std::string(what) + " has a member \"" + std::string(key) + "\", which the format does not have");
    }
    found[static_cast<std::size_t>(name - names.begin())] = member;
  }
  // No key is there twice, so as many members as names are all of them.
  if (value.size() != names.size()) {
    refuse(std::string(what) + " has " + std::to_string(value.size()) + " members instead of " +
           std::to_string(names.size()));
  }
}

std::uint32_t Reader::index(const json::Value& value, std::size_t count, std::string_view what) const {
  const std::uint64_t found = number(value, what);
  if (found >= count) {
    refuse(std::string(what) + " is number " + std::to_string(found) + " of " + std::to_string(count));
  }
  return static_cast<std::uint32_t>(found);
}

std::vector<std::uint32_t> Reader::indices(const json::Value& value, std::size_t count, std::string_view what) const {
  json::Elements elements = array(value, most_indices_, what);
  std::vector<std::uint32_t> found;
  found.reserve(value.size());
  while (!elements.empty()) {
    found.push_back(index(elements.take(), count, what));
  }
  return found;
}

std::vector<std::uint64_t> Reader::dimensions(const json::Value& value, std::string_view what) const {
  json::Elements elements = array(value, format::kMaxDimensions, what);
  std::vector<std::uint64_t> found;
  found.reserve(value.size());
  while (!elements.empty()) {
    found.push_back(number(elements.take(), what));
  }
  return found;
}

std::uint64_t Reader::size(std::span<const std::uint64_t> shape, std::uint64_t item_size) const {
  std::uint64_t size = item_size;
  for (const std::uint64_t length : shape) {
    size = product(size, std::max<std::uint64_t>(length, 1));
  }
  if (size > format::kMaxNumber) {
    refuse("its elements have more than 2^53 - 1 bytes");
  }
  return std::ranges::count(shape, 0U) != 0 ? 0 : size;
}

std::uint64_t product(std::uint64_t one, std::uint64_t other) noexcept {
  std::uint64_t result = 0;
  return __builtin_mul_overflow(one, other, &result) ? ~std::uint64_t{0} : result;
}

std::uint64_t sum(std::uint64_t one, std::uint64_t other) noexcept {
  std::uint64_t result = 0;
  return __builtin_add_overflow(one, other, &result) ? ~std::uint64_t{0} : result;
}

}  // namespace zerocopy::fields
