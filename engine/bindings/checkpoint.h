// Checkpoints in safetensors files, for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace zerocopy::python {

void bind_checkpoint(const nanobind::module_& module);

}  // namespace zerocopy::python
