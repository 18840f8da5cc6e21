// How blocks lie in segments, for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace zerocopy::python {

void bind_layout(nanobind::module_& module);

}  // namespace zerocopy::python
