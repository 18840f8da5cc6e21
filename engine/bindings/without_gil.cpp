#include "without_gil.h"

#include <dlfcn.h>

#include <chrono>
#include <thread>

namespace zerocopy::python {
namespace {

// Looked up when first needed: public since Python 3.13, there under the other name before, and in no stable ABI that
// is older than that.
bool is_interpreter_ending() noexcept {
  using Question = int (*)();
  static const auto question = [] {
    for (const char* const name : {"Py_IsFinalizing", "_Py_IsFinalizing"}) {
      if (void* const found = ::dlsym(RTLD_DEFAULT, name); found != nullptr) {
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): what dlsym() gives is the function's address.
        return reinterpret_cast<Question>(found);
      }
    }
    return Question{};
  }();
  return question != nullptr && question() != 0;
}

}  // namespace

WithoutGil::WithoutGil() : ends_the_interpreter_(is_interpreter_ending()), state_(PyEval_SaveThread()) {}

WithoutGil::~WithoutGil() {
  while (!ends_the_interpreter_ && is_interpreter_ending()) {
    std::this_thread::sleep_for(std::chrono::hours(1));
  }
  PyEval_RestoreThread(state_);
}

}  // namespace zerocopy::python
