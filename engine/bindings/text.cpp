#include "text.h"

namespace nb = nanobind;

namespace zerocopy::python {

std::string path_from(nb::handle path) {
  PyObject* encoded = nullptr;
  // NOLINTNEXTLINE(bugprone-multi-level-implicit-pointer-conversion): the function's own signature.
  if (PyUnicode_FSConverter(path.ptr(), &encoded) == 0) {
    throw nb::python_error();
  }
  const auto bytes = nb::steal<nb::bytes>(encoded);
  return {bytes.c_str(), bytes.size()};
}

nb::str decoded(const std::string& text) {
  return nb::steal<nb::str>(PyUnicode_DecodeFSDefaultAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

void raise_os_error(int error, const std::string& message, const std::string& path) {
  const nb::object cls = nb::borrow(PyExc_OSError);
  const nb::object raised = path.empty() ? cls(error, decoded(message)) : cls(error, decoded(message), decoded(path));
  PyErr_SetObject(raised.type().ptr(), raised.ptr());
  throw nb::python_error();
}

}  // namespace zerocopy::python
