// Checkpoints: tensors by their names, in safetensors files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "zerocopy/shared_file.h"

namespace zerocopy {

class System;

// A tensor of a checkpoint: `nbytes` bytes at `offset` from the start of the data, its elements one after the other.
struct CheckpointTensor {
  std::string name;
  std::string dtype;  // As safetensors spells them: F32, BF16, I64, ... See item_size() in image.h.
  std::vector<std::uint64_t> shape;
  std::uint64_t offset = 0;
  std::uint64_t nbytes = 0;

  friend bool operator==(const CheckpointTensor&, const CheckpointTensor&) = default;
};

// A safetensors file, open for reading: an image or any other. Its header has been checked when open() returns: every
// tensor lies within the file, and no two of them share a byte. (Two entries of an image do not either: what shares
// bytes there is in its index.) Where tensors lie within their pages is whatever the file's writer made of it.
//
// Ownership: the object keeps the file. What the members return belongs to the object and is valid as long as one copy
// of it exists. A Checkpoint can be copied and moved at the cost of a shared pointer.
// Threads: all members may be called from any thread at any time, except that assigning to or destroying an object is
// its owner's. A moved-from Checkpoint may only be assigned to or destroyed.
//
// REQUIRES: nobody writes to the file in place or shortens it while it is open (see SharedFile).
class Checkpoint {
 public:
  // Opens the file at `path`. Throws Error:
  //   system_call       the file cannot be opened or mapped;
  //   not_an_image      it is no safetensors file;
  //   truncated         it is shorter or longer than its header says;
  //   malformed_header  the header is not as safetensors has it, or has a dtype that item_size() does not know;
  //   duplicate_name    two tensors have one name;
  //   too_large         there are more tensors, or dimensions, than an image may have.
  static Checkpoint open(const std::string& path);

  // The same with `system` in the place of the operating system. It must outlive the file.
  static Checkpoint open(const std::string& path, System& system);

  // The same for a file that is open already.
  static Checkpoint open(const std::shared_ptr<const SharedFile>& file);

  [[nodiscard]] const std::shared_ptr<const SharedFile>& file() const noexcept;

  // In the order of the header. Of an image, the entries of the format's own as well.
  [[nodiscard]] std::span<const CheckpointTensor> tensors() const noexcept;

  // What lies behind the header, as the file has it: shared and read-only. A View over it gives private tensors.
  [[nodiscard]] std::span<const std::byte> data() const noexcept;

 private:
  struct Content;

  explicit Checkpoint(std::shared_ptr<const Content> content) noexcept;

  std::shared_ptr<const Content> content_;
};

}  // namespace zerocopy
