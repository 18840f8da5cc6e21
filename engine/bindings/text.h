// Paths, and messages that contain them, on their way between Python and C++.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "gil.h"
#include "zerocopy/error.h"

namespace zerocopy::python {

// The bytes of a path given as str, bytes or os.PathLike. Throws nanobind::python_error: TypeError for anything else,
// ValueError for a path with a zero byte.
std::string path_from(nanobind::handle path);

// As os.fsdecode has it: a path is any bytes, and what is not UTF-8 in it becomes surrogates.
nanobind::str decoded(const std::string& text);

// Raises OSError with an errno, a message and, unless it is empty, a path.
[[noreturn]] void raise_os_error(int error, const std::string& message, const std::string& path);

// What `call` returns. It is called without the GIL: a file may be on a disk, or on a server, that takes its time. What
// the operating system refuses is raised as OSError with the path.
template <typename Call>
auto with_file(const std::string& path, Call call) {
  try {
    const WithoutGil no_gil;
    return call();
  } catch (const Error& error) {
    if (error.code() != Error::Code::system_call) {
      throw;
    }
    raise_os_error(error.system_error(), error.what(), path);
  }
}

}  // namespace zerocopy::python
