// Images: the weights of a model, and what else is needed to have it back, as docs/image_format.md specifies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "zerocopy/shared_file.h"
#include "zerocopy/view.h"

namespace zerocopy {

class System;

// The bytes of one storage or array: `nbytes` bytes at `offset` from the start of a segment. A block without bytes lies
// in no segment, and has 0 for both. Blocks may overlap.
struct Block {
  std::optional<std::uint32_t> segment;
  std::uint64_t offset = 0;
  std::uint64_t nbytes = 0;

  friend bool operator==(const Block&, const Block&) = default;
};

// A tensor in a block. Several tensors may have the same elements (tied weights, views).
struct Tensor {
  std::string name;
  std::string dtype;                   // As safetensors spells them: F32, BF16, I64, ... See item_size().
  std::vector<std::uint64_t> shape;    // Elements.
  std::vector<std::uint64_t> strides;  // Elements; one for each dimension.
  std::uint32_t block = 0;
  std::uint64_t offset = 0;  // Bytes from the start of the block to the first element.

  friend bool operator==(const Tensor&, const Tensor&) = default;
};

// An object graph: a Python program's pickled skeleton and the blocks that belong in it.
struct Root {
  std::string name;                          // No two roots of an image have the same.
  std::uint32_t skeleton = 0;                // A blob: two pickles.
  std::vector<std::uint32_t> buffers;        // The blocks of its pickle.PickleBuffers, in the order of the stream.
  std::optional<std::uint32_t> archive;      // Its TorchScript modules.
  std::vector<std::uint32_t> tensor_blocks;  // Those blocks that go to the device to which its tensors go.
  std::vector<std::uint32_t> segments;       // Those that hold its blocks.
  std::vector<std::uint32_t> host_segments;  // Those of them with blocks that remain in the host's memory in any case.

  friend bool operator==(const Root&, const Root&) = default;
};

// Where in an archive a TorchScript module is found.
struct ScriptModule {
  std::uint64_t number = 0;             // By which a skeleton refers to it.
  std::uint64_t place = 0;              // Of the outermost module that holds it, in the archive's list of those.
  std::vector<std::string> submodules;  // The names on the way from that module to this one.

  friend bool operator==(const ScriptModule&, const ScriptModule&) = default;
};

// TorchScript modules without their weights.
struct Archive {
  std::uint32_t records = 0;          // A blob: a zip in the layout of torch.package.
  std::vector<std::uint32_t> blocks;  // Of each storage, at the number that the archive has for it (`i.storage`).
  std::vector<std::uint64_t> sizes;   // How many of each block's bytes, from its first one on, are the storage.
  bool has_storages = false;          // The archive holds more storages, itself.
  std::vector<ScriptModule> modules;

  friend bool operator==(const Archive&, const Archive&) = default;
};

// A program compiled by AOTInductor, without its constants.
struct Program {
  std::uint32_t package = 0;  // A blob.
  std::vector<Tensor> constants;

  friend bool operator==(const Program&, const Program&) = default;
};

// A part of a file whose bytes are not those that were written.
struct Damage {
  enum class Part : std::uint8_t { segment, blob };

  Part part = Part::segment;
  std::uint32_t number = 0;
  std::string expected;  // The digest in the index: 32 hexadecimal digits.
  std::string found;     // That of the bytes.

  friend bool operator==(const Damage&, const Damage&) = default;
};

// The bytes of an element of a dtype that an image's index may name; none for any other name.
std::optional<std::uint64_t> item_size(std::string_view dtype);

// The parts of an image that is not a file (docs/image_format.md, "An image in parts"): its index, and the bytes of its
// segments and blobs, wherever each of them lies.
struct ImageParts {
  std::string index;
  std::vector<std::span<const std::byte>> segments;
  std::vector<std::span<const std::byte>> blobs;
  std::shared_ptr<const void> owner;  // What keeps the bytes readable and unchanged, if anything has to.
};

// An image, open for reading: a file, or parts. It has been checked as a whole, but for the digests of its segments and
// blobs, when open() or assemble() returns: every number that the members below give is that of a part that exists, and
// every block lies within its segment.
//
// Ownership: the object keeps the file, or the parts' owner. Everything that the members return, except for Views,
// belongs to the image and is valid as long as one copy of it exists. An Image can be copied and moved at the cost of a
// shared pointer.
// Threads: all members may be called from any thread at any time, except that assigning to or destroying an object is
// its owner's. A moved-from Image may only be assigned to or destroyed.
//
// REQUIRES: nobody writes to the file in place or shortens it while it is open (see SharedFile).
class Image {
 public:
  // Opens the file at `path`. Throws Error:
  //   system_call                    the file cannot be opened or mapped;
  //   not_an_image                   it is no safetensors file, or one that is not an image;
  //   unknown_version                it is an image of a version that this reader does not know;
  //   truncated                      it is shorter or longer than its header says;
  //   malformed_header               the header is not as specified;
  //   damaged                        the index is not the one that was written;
  //   malformed_index                the index is not as specified, or contradicts the header;
  //   reserved_name, duplicate_name  a name is one that may not be used, or is used twice;
  //   too_large                      one of the format's limits is exceeded.
  static Image open(const std::string& path);

  // The same with `system` in the place of the operating system. It must outlive the file and all Views of it.
  static Image open(const std::string& path, System& system);

  // The same for a file that is open already.
  static Image open(const std::shared_ptr<const SharedFile>& file);

  // The image whose parts these are. Throws Error:
  //   truncated                      a segment or blob has another length than the index says;
  //   malformed_index                the index is not as specified, or not one of that many parts;
  //   reserved_name, duplicate_name  a name is one that may not be used, or is used twice;
  //   too_large                      the index is too long, or has too many values.
  static Image assemble(ImageParts parts);

  // The same with `system` in the place of the operating system, for Views. It must outlive them.
  static Image assemble(ImageParts parts, System& system);

  // Null for an image in parts.
  [[nodiscard]] const std::shared_ptr<const SharedFile>& file() const noexcept;

  // All named tensors, tied ones and views as well.
  [[nodiscard]] std::span<const Tensor> tensors() const noexcept;

  // The tensor of a name; null when there is none.
  [[nodiscard]] const Tensor* find(std::string_view name) const noexcept;

  [[nodiscard]] std::span<const Block> blocks() const noexcept;
  [[nodiscard]] std::span<const Root> roots() const noexcept;
  [[nodiscard]] std::span<const Archive> archives() const noexcept;
  [[nodiscard]] std::span<const Program> programs() const noexcept;

  // What the users of the writer have put into the file's metadata. Parts have none.
  [[nodiscard]] const std::map<std::string, std::string, std::less<>>& metadata() const noexcept;

  // What wrote the image, in words.
  [[nodiscard]] const std::string& producer() const noexcept;

  // The index as it was written: JSON.
  [[nodiscard]] std::string_view index() const noexcept;

  // The XXH3-128 of the index: 32 lower-case hexadecimal digits. The index of a file holds the digests of all segments
  // and blobs, so files of the same digest have the same content, whatever metadata they have.
  [[nodiscard]] const std::string& digest() const noexcept;

  [[nodiscard]] std::size_t segment_count() const noexcept;
  [[nodiscard]] std::size_t blob_count() const noexcept;

  // A segment's bytes as the file has them, or the part: shared and read-only. Throws Error::Code::no_such_segment.
  [[nodiscard]] std::span<const std::byte> segment(std::size_t number) const;

  // A block's bytes, likewise. A block without bytes has no address. Throws Error::Code::no_such_block.
  [[nodiscard]] std::span<const std::byte> block(std::size_t number) const;

  // A blob's bytes, likewise. They are compared with their digest, if they have one, when they are first asked for.
  // Throws Error: no_such_blob; damaged when they are not the bytes that were written, in each call.
  [[nodiscard]] std::span<const std::byte> blob(std::size_t number) const;

  // A private, writable window on some of the segments, in the order of their numbers here. It needs neither this
  // object nor the file any more, and keeps the parts' owner. Throws Error::Code::no_such_segment, and what View
  // throws.
  [[nodiscard]] View view(std::span<const std::uint32_t> segments) const;

  // Reads all segments and blobs that have digests, with up to `threads` threads (1 to 64), and compares them. Returns
  // what is damaged, segments first; nothing when the image is sound. Throws Error::Code::bad_thread_count.
  [[nodiscard]] std::vector<Damage> verify(unsigned threads = 1) const;

 private:
  struct Content;

  explicit Image(std::shared_ptr<const Content> content) noexcept;

  std::shared_ptr<const Content> content_;
};

}  // namespace zerocopy
