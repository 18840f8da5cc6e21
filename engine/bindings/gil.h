// Giving up and taking the GIL, in threads that may outlive the interpreter.
#pragma once

#include <nanobind/nanobind.h>

namespace zerocopy::python {

// A daemon thread may ask for the GIL while the interpreter ends. Python before 3.14 then ends the thread
// (pthread_exit), whose stack cannot be unwound through C++ that does not expect it, so that the whole process would be
// aborted. With these two in the places of nanobind's, such a thread waits for the process's end instead, as it does in
// Python 3.14.

// Gives the GIL up for as long as it lives.
class WithoutGil {
 public:
  WithoutGil();
  WithoutGil(WithoutGil&&) = delete;
  WithoutGil& operator=(WithoutGil&&) = delete;
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil();

 private:
  PyThreadState* state_;
};

// Holds the GIL for as long as it lives, in any thread, whether or not that has it already.
class WithGil {
 public:
  WithGil();
  WithGil(WithGil&&) = delete;
  WithGil& operator=(WithGil&&) = delete;
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;
  ~WithGil();

 private:
  PyGILState_STATE state_;
};

}  // namespace zerocopy::python
