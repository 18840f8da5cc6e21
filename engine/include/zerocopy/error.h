// What can go wrong in the engine, one enumerator for each thing.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace zerocopy {

// The only exception that the engine throws of its own (besides std::bad_alloc). The message is one human sentence with
// the offending value in it. A value type: may be copied to and read in any thread.
class Error : public std::runtime_error {
 public:
  enum class Code : std::uint8_t {
    // The caller's fault.
    bad_segment,       // A segment has a length but no address, or runs past the end of the address space.
    unmapped_segment,  // A segment's bytes cannot be read: nothing is mapped there, or the file ends before them.
    no_such_segment,   // An index that is not smaller than the number of segments.
    out_of_bounds,     // What is said to lie in some bytes does not lie within them.
    bad_thread_count,  // No thread at all, or more than 64.
    no_such_block,     // The same as no_such_segment, of an image's blocks.
    no_such_blob,      // The same, of its blobs.
    ambiguous_path,    // A folder with several checkpoints: which one is meant cannot be told.
    // An image file's fault, or that of what is to be written to one. docs/image_format.md says which is when.
    not_an_image,      // No safetensors file, or one without a version of the image format.
    unknown_version,   // An image of a version that this engine does not know.
    truncated,         // The file is shorter or longer than its header says.
    malformed_header,  // The header is not as the format has it.
    malformed_index,   // The index is not as the format has it, or contradicts the header.
    damaged,           // Bytes do not have the digest that they were written with.
    too_large,         // More than one of the format's limits allows.
    reserved_name,     // A name that begins with `zerocopy.`.
    duplicate_name,    // A name that is used twice.
    // The machine's say. A View answers these with a private copy, and gives the message as its reason.
    not_shared,      // The bytes lie in private memory.
    malformed_maps,  // What the kernel says of a mapping is not what it documents.
    not_held_open,   // No process that may be asked holds the file open.
    not_mappable,    // The file cannot be mapped privately page by page (hugetlbfs, devices).
    // Anything else that the operating system refused; system_error() has its errno.
    system_call,
    // Of GPUs. No public class uses any yet.
    no_device_driver,  // The CUDA driver is not installed, or too old.
    no_such_device,    // This process sees no device with that UUID.
    unfit_device,      // The device lacks what sharing its memory takes.
    read_only_memory,  // Bytes were to be copied into a mapping that is for reading only.
    device_call,       // The CUDA driver refused a call; system_error() has its CUresult.
  };

  Error(Code code, const std::string& message, int system_error = 0)
      : std::runtime_error(message), code_(code), system_error_(system_error) {}

  [[nodiscard]] Code code() const noexcept { return code_; }

  // The errno of the call that failed, or its CUresult if it was one to the CUDA driver; 0 where no call failed.
  [[nodiscard]] int system_error() const noexcept { return system_error_; }

 private:
  Code code_;
  int system_error_;
};

}  // namespace zerocopy
