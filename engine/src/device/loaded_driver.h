// The CUDA driver, found when the program runs.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "device/driver.h"

namespace zerocopy {

// A function of a loaded library by its exported name; null when the library has none of that name.
using FindFunction = std::function<void*(const char* name)>;

// The driver whose functions `find` finds, each by the exact name that the driver exports. A name with a version
// (cuMemHostRegister_v2) stands for one signature for ever, in old and new drivers; no header's macros choose between
// them, as they do for programs that are built with CUDA. All functions are looked for at once, so that a driver that
// lacks one is refused as a whole: throws Error::Code::no_device_driver.
std::unique_ptr<Driver> make_driver(FindFunction find);

// The driver in a shared library, which stays loaded until the process ends: it may have started threads. Throws
// Error::Code::no_device_driver when it cannot be loaded.
std::unique_ptr<Driver> load_driver(const std::string& library);

}  // namespace zerocopy
