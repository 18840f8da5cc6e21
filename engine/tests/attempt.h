// Steps that are to be refused.
#pragma once

#include <new>
#include <stdexcept>

#include "zerocopy/error.h"

namespace zerocopy::testing {

// The Error that `step` throws. A std::runtime_error, which ends the test, if it throws nothing.
template <typename Step>
Error refusal(Step step) {
  try {
    step();
  } catch (const Error& error) {
    return error;
  }
  throw std::runtime_error("an Error was expected, and nothing was thrown");
}

// Whether a step was made: neither the engine nor the memory refused it. Any other exception ends the test.
template <typename Step>
bool tried(Step step) {
  try {
    step();
  } catch (const Error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

}  // namespace zerocopy::testing
