// Writing images, as docs/image_format.md specifies them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "zerocopy/image.h"

namespace zerocopy {

class IndexDraft;
class System;

struct WriteOptions {
  // How many threads write, the caller's among them: 1 to 64. Two hide the time that the digests take; more write no
  // faster, because the kernel lets one thread at a time write to a file.
  unsigned threads = 2;

  // Called in the caller's thread, with the bytes written so far and those that there are to write: about a hundred
  // times, and at last with both the same. What it throws ends the writing, and is thrown by write().
  std::function<void(std::uint64_t written, std::uint64_t total)> progress;
};

// How the blocks of an image in parts are laid out.
struct PartsOptions {
  // Whether blocks that touch in memory lie in one segment, if the same roots use them: few large segments are copied
  // faster than many small ones.
  bool join = false;
  // Blocks with segments of their own: no other block lies in these unless it overlaps with one of them.
  std::vector<std::uint32_t> apart;
};

// Collects what an image consists of, and writes it to a file or gives it in parts. Blocks are given as bytes wherever
// they lie in memory; where each goes follows from their order, their overlaps and from which roots use them, so the
// same calls always make the same image. Blocks that no root uses are in the image as well.
//
// The members that add something return its number, by which what is added later refers to it. They throw Error:
// no_such_block or no_such_blob for the number of something that has not been added; out_of_bounds for a tensor or
// storage that does not lie within its block; duplicate_name for a second tensor, root or metadata of the same name;
// reserved_name for a name that begins with `zerocopy.`, or that safetensors or the format uses itself; malformed_index
// for anything else that no image has (an unknown dtype, more or fewer strides than dimensions, text that is not
// UTF-8); too_large for more than the format allows, except that only write() counts the blocks. Nothing has been added
// then.
//
// Ownership: the bytes of blocks and blobs are borrowed. REQUIRES: they can be read, and nobody changes them, until
// write() has returned, and as long as what parts() returned is in use. Threads: one at a time.
class ImageWriter {
 public:
  // `producer` says in words what writes the file.
  explicit ImageWriter(std::string producer);

  // The same with `system` in the place of the operating system. It must outlive the object.
  ImageWriter(std::string producer, System& system);

  std::uint32_t add_block(std::span<const std::byte> bytes);
  std::uint32_t add_blob(std::span<const std::byte> bytes);

  // safetensors can read a tensor under its name if it is contiguous and consists of all bytes of its block, and no
  // other block overlaps with that one beyond it. Of several tensors with the same bytes that is the first.
  void add_tensor(Tensor tensor);

  // `host_blocks` are those blocks that remain in the host's memory in any case; the buffers are among them whether
  // they are named there or not. The root uses these, its tensor_blocks and the blocks of its archive.
  // REQUIRES: segments and host_segments are empty; they follow from the blocks.
  std::uint32_t add_root(Root root, std::span<const std::uint32_t> host_blocks);

  std::uint32_t add_archive(Archive archive);
  std::uint32_t add_program(Program program);
  void add_metadata(std::string key, std::string value);

  // Writes the image to `path`, in the place of what is there. Until the file is complete and durable nothing is at
  // `path` but what was there before; if writing fails, nothing of it is left. Returns the image's digest.
  //
  // Throws Error: bad_thread_count; too_large; system_call when the file cannot be written. If only the last step
  // fails, which makes the file's name durable, the message says so, and the file is at `path`.
  // NOLINTNEXTLINE(modernize-use-nodiscard): it is written for the file more than for the digest.
  std::string write(const std::string& path, const WriteOptions& options = {}) const;

  // The image in parts, without digests and metadata. Blocks that overlap and span more than 64 KiB are a segment, as
  // they lie in memory; the smaller ones of the same roots are copied into one that `owner` keeps. The blobs are those
  // that were added. Throws Error: no_such_block for a block in the options; too_large.
  [[nodiscard]] ImageParts parts(const PartsOptions& options = {}) const;

 private:
  friend class IndexDraft;

  using Numbers = std::vector<std::uint32_t>;

  // Of each root, the blocks that it uses: ascending, each once.
  [[nodiscard]] std::vector<Numbers> used_blocks() const;
  void check_block(std::uint32_t number, std::string_view whose) const;
  void check_blob(std::uint32_t number, std::string_view whose) const;
  void check_tensor(const Tensor& tensor) const;

  System* system_;
  std::string producer_;
  std::vector<std::span<const std::byte>> blocks_;
  std::vector<std::span<const std::byte>> blobs_;
  std::vector<Tensor> tensors_;
  std::set<std::string, std::less<>> tensor_names_;
  std::vector<Root> roots_;
  std::vector<Numbers> host_blocks_;  // Of each root: ascending, each once.
  std::set<std::string, std::less<>> root_names_;
  std::vector<Archive> archives_;
  std::vector<Program> programs_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace zerocopy
