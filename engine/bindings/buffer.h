// Python's bytes, borrowed.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <span>
#include <vector>

namespace zerocopy::python {

// Holds a Py_buffer: the exporter (bytes, numpy array, memoryview, ...) keeps its memory where it is for as long as
// this lives, and is itself kept alive. Taken with the GIL held; may be dropped in any thread, with or without the GIL.
class Buffer {
 public:
  // Any C-contiguous exporter, read-only ones too. Throws nanobind::python_error (TypeError for an object that exports
  // none, BufferError or ValueError for one that isn't contiguous).
  explicit Buffer(nanobind::handle exporter);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) = delete;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept;

 private:
  Py_buffer buffer_{};  // obj is null: none is held.
};

// Holds any number of them, and takes the GIL once to drop them all: a busy interpreter gives it only every few
// milliseconds.
class Buffers {
 public:
  Buffers() = default;
  Buffers(Buffers&&) = delete;
  Buffers& operator=(Buffers&&) = delete;
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers();

  // Returns the exporter's bytes. Throws as Buffer does.
  std::span<const std::byte> add(nanobind::handle exporter);

  // Holds an object beside them. The GIL is held.
  void keep(nanobind::handle object);

 private:
  std::vector<Buffer> buffers_;
  std::vector<nanobind::object> kept_;
};

}  // namespace zerocopy::python
