// Objects that live until the process ends.
#pragma once

namespace zerocopy {

// A T that is never destroyed: for static objects that may still be used by threads and destructors that run while the
// process exits.
template <typename T>
class Immortal {
 public:
  Immortal() = default;
  Immortal(Immortal&&) = delete;
  Immortal& operator=(Immortal&&) = delete;
  Immortal(const Immortal&) = delete;
  Immortal& operator=(const Immortal&) = delete;
  ~Immortal() = default;

  T& get() noexcept { return storage_.value; }  // NOLINT(cppcoreguidelines-pro-type-union-access): it has one member.

 private:
  // A union's member is destroyed by nobody but its owner.
  union Storage {
    T value{};

    Storage() {}   // NOLINT(modernize-use-equals-default): defaulted, it would be deleted,
    ~Storage() {}  // NOLINT(modernize-use-equals-default): and this too.
    Storage(Storage&&) = delete;
    Storage& operator=(Storage&&) = delete;
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;
  } storage_;
};

}  // namespace zerocopy
