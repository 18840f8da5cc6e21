// What bytes come from, kept for as long as any process may use them.
#pragma once

#include <cstdint>
#include <memory>

#include "system/system.h"

namespace zerocopy {

// Holds what keeps some bytes readable and unchanged (an object store's pin, say), and gives it back when no process
// needs it any more. Such a pin belongs to the process that took it, but a forked child has the bytes mapped as well.
// Therefore
//   * a process that has forked since it made the Source keeps what was held, when the Source goes, until every such
//     child and all descendants of those have ended or called exec. A thread that exists only meanwhile waits for that;
//     it takes no signals.
//   * a child never gives back what it has inherited: it would give back its parent's.
// Each fork while there are Sources costs the parent and the child a descriptor: the ends of a pipe, which are closed
// by exec. Where no pipe can be made, what was held is kept until the process ends. Not covered are children that close
// descriptors which they do not know and go on without exec, and those of clone() and vfork(), for which the C library
// does not call the handlers of pthread_atfork().
//
// Objects are independent: each may be made and destroyed in any thread. What was held may be given back in any thread.
// `system` must outlive the Source.
class Source {
 public:
  explicit Source(std::shared_ptr<const void> held, System& system = System::real());
  Source(Source&&) = delete;
  Source& operator=(Source&&) = delete;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source();

  // The thread that waits for children gives nothing back any more, and is not doing so when this returns. For callers
  // whose deleters need something that goes before the process ends.
  static void stop_waiting() noexcept;

 private:
  struct Registry;

  static Registry& registry() noexcept;
  static bool watch_forks() noexcept;

  static const bool forks_are_watched;

  std::shared_ptr<const void> held_;
  System* system_;
  int process_;
  std::uint64_t first_fork_ = 0;  // The number of the first fork that comes after construction.
};

}  // namespace zerocopy
