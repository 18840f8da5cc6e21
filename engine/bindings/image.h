// Image files, for Python.
#pragma once

#include <nanobind/nanobind.h>

#include "zerocopy/error.h"

namespace zerocopy::python {

// Sets ImageError as Python's error if that is what the error is to Python; returns whether it is.
bool raise_image_error(const Error& error);

void bind_image(const nanobind::module_& module);

}  // namespace zerocopy::python
