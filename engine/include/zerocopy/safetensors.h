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

// A file of a checkpoint.
struct CheckpointFile {
  std::shared_ptr<const SharedFile> file;

  // What lies behind the header, as the file has it: shared and read-only. A View over it gives private tensors.
  std::span<const std::byte> data;
};

// A tensor of a checkpoint: `nbytes` bytes at `offset` from the start of a file's data, its elements one after the
// other.
struct CheckpointTensor {
  std::string name;
  std::string dtype;  // As safetensors spells them: F32, BF16, I64, ... See item_size() in image.h.
  std::vector<std::uint64_t> shape;
  std::uint32_t file = 0;  // The number of the file in Checkpoint::files().
  std::uint64_t offset = 0;
  std::uint64_t nbytes = 0;

  friend bool operator==(const CheckpointTensor&, const CheckpointTensor&) = default;
};

// A checkpoint in one or several safetensors files, open for reading; images are such files as well. All headers have
// been checked when open() returns: every tensor lies within its file, no two of them share a byte, and no two have one
// name. Where tensors lie within their pages is whatever the files' writer made of it.
//
// Ownership: the object keeps the files. What the members return belongs to the object and is valid as long as one copy
// of it exists. A Checkpoint can be copied and moved at the cost of a shared pointer.
// Threads: all members may be called from any thread at any time, except that assigning to or destroying an object is
// its owner's. A moved-from Checkpoint may only be assigned to or destroyed.
//
// REQUIRES: nobody writes to the files in place or shortens them while they are open (see SharedFile).
class Checkpoint {
 public:
  // Opens the checkpoint at `path`, which is that of
  //   a safetensors file;
  //   the index of a sharded checkpoint, whose name ends with `.json`: of each file that it names, which must lie in
  //   the
  //     same folder, the checkpoint has those tensors that the index says are there; or
  //   a folder that holds one `*.safetensors.index.json`, or else one `*.safetensors`. Names that begin with a dot do
  //     not count.
  //
  // Throws Error:
  //   system_call       a file or the folder cannot be opened or mapped; ENOENT when the folder holds no checkpoint;
  //   ambiguous_path    the folder holds several checkpoints, or parts of one without an index;
  //   not_an_image      a file is no safetensors file;
  //   truncated         a file is shorter or longer than its header says;
  //   malformed_header  a header is not as safetensors has it, or has a dtype that item_size() does not know;
  //   malformed_index   the index is not that of a sharded checkpoint, names a file that does not lie beside it, or a
  //                     tensor that is not in its file;
  //   duplicate_name    two tensors have one name;
  //   too_large         there are more tensors, dimensions or files than an image may have tensors, dimensions or
  //                     segments; or the index is larger than that of an image may be.
  static Checkpoint open(const std::string& path);

  // The same with `system` in the place of the operating system. It must outlive the files.
  static Checkpoint open(const std::string& path, System& system);

  // The same for one checkpoint that several of these hold together.
  static Checkpoint open(std::span<const std::string> paths);
  static Checkpoint open(std::span<const std::string> paths, System& system);

  // The same for a file that is open already.
  static Checkpoint open(const std::shared_ptr<const SharedFile>& file);

  [[nodiscard]] std::span<const CheckpointFile> files() const noexcept;

  // File by file, in the order of the headers. What an image has besides its tensors is not among them.
  [[nodiscard]] std::span<const CheckpointTensor> tensors() const noexcept;

 private:
  struct Content;

  explicit Checkpoint(std::shared_ptr<const Content> content) noexcept;

  std::shared_ptr<const Content> content_;
};

}  // namespace zerocopy
