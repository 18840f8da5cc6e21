// Work without the GIL, in threads that may outlive the interpreter.
#pragma once

#include <nanobind/nanobind.h>

namespace zerocopy::python {

// Gives the GIL up for as long as it lives. A daemon thread may come back while the interpreter ends: Python
// before 3.14 then ends the thread (pthread_exit), whose stack cannot be unwound through C++ that does not expect it,
// so that the whole process would be aborted. Such a thread waits here for the process's end instead, as it does in
// Python 3.14.
class WithoutGil {
 public:
  WithoutGil();
  WithoutGil(WithoutGil&&) = delete;
  WithoutGil& operator=(WithoutGil&&) = delete;
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil();

 private:
  bool ends_the_interpreter_;  // Whoever holds the GIL while the interpreter ends is the thread that ends it.
  PyThreadState* state_;
};

}  // namespace zerocopy::python
