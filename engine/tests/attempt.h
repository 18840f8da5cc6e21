// Steps that are to be refused.
#pragma once

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

}  // namespace zerocopy::testing
