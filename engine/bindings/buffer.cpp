#include "buffer.h"

#include "gil.h"

namespace nb = nanobind;

namespace zerocopy::python {

Buffer::Buffer(nb::handle exporter) {
  if (PyObject_GetBuffer(exporter.ptr(), &buffer_, PyBUF_SIMPLE) != 0) {
    throw nb::python_error();
  }
}

// A Py_buffer may be copied bit by bit as long as only one copy is released (its shape and strides, which may point
// into itself, are not asked for).
Buffer::Buffer(Buffer&& other) noexcept : buffer_(other.buffer_) { other.buffer_ = {}; }

Buffer::~Buffer() {
  // With the interpreter gone, so are its objects: nothing is left to give the buffer back to.
  if (buffer_.obj != nullptr && nb::is_alive()) {
    const WithGil gil;
    PyBuffer_Release(&buffer_);
  }
}

std::span<const std::byte> Buffer::bytes() const noexcept {
  return {static_cast<const std::byte*>(buffer_.buf), static_cast<std::size_t>(buffer_.len)};
}

Buffers::~Buffers() {
  if (nb::is_alive()) {
    const WithGil gil;
    buffers_.clear();
    kept_.clear();
  } else {
    for (nb::object& object : kept_) {
      object.release();
    }
  }
}

std::span<const std::byte> Buffers::add(nb::handle exporter) { return buffers_.emplace_back(exporter).bytes(); }

void Buffers::keep(nb::handle object) { kept_.push_back(nb::borrow(object)); }

}  // namespace zerocopy::python
