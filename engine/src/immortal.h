// Objects that live until the process ends.
#pragma once

namespace zerocopy {

// A T that is never destroyed: for static objects that may still be used by threads and destructors that run while the
// process exits.
template <typename T>
union Immortal {
  T value;

  Immortal() : value() {}
  Immortal(const Immortal&) = delete;
  Immortal& operator=(const Immortal&) = delete;
  ~Immortal() {}  // NOLINT(modernize-use-equals-default): defaulted, it would be deleted.
};

}  // namespace zerocopy
