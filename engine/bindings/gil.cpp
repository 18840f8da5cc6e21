#include "gil.h"

#include <chrono>
#include <thread>

namespace zerocopy::python {
namespace {

// What `take` returns, unless the thread is to end: its unwinding cannot go on from here. The GIL is not held then.
template <typename Take>
auto taken(Take take) {
  try {
    return take();
  } catch (...) {
    while (true) {
      std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
}

}  // namespace

WithoutGil::WithoutGil() : state_(PyEval_SaveThread()) {}

WithoutGil::~WithoutGil() {
  taken([this] { PyEval_RestoreThread(state_); });
}

WithGil::WithGil() : state_(taken([] { return PyGILState_Ensure(); })) {}

WithGil::~WithGil() { PyGILState_Release(state_); }

}  // namespace zerocopy::python
