// Writing image files, for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace zerocopy::python {

void bind_image_writer(const nanobind::module_& module);

}  // namespace zerocopy::python
