// Whatever a safetensors file or the index of a sharded checkpoint has in it is either refused, or a checkpoint whose
// every tensor lies within a file of the folder. What begins as JSON is an index beside two sound files.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "forwarding_system.h"
#include "zerocopy/error.h"
#include "zerocopy/safetensors.h"

namespace {

using zerocopy::Checkpoint;
using zerocopy::Error;
using zerocopy::FileDescriptor;
using zerocopy::Result;

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

struct File {
  std::string_view path;
  std::string_view header;
  std::string_view data;
};

constexpr std::array kShards{
    File{"folder/one.safetensors",
         R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
         R"("b":{"dtype":"U8","shape":[],"data_offsets":[8,9]}})",
         "012345678"},
    File{"folder/two.safetensors", R"({"c":{"dtype":"BF16","shape":[1,1],"data_offsets":[0,2]}})", "01"},
};

// A folder with the shards and, under another name, the input. No other file can be opened.
class FolderOfInput : public zerocopy::testing::ForwardingSystem {
 public:
  FolderOfInput(std::string_view path, std::string_view input) : path_(path), input_(input) {}

  Result<FileDescriptor> open(const std::string& path) override {
    if (path == path_) {
      return {file_of(input_)};
    }
    for (const File& shard : kShards) {
      if (path == shard.path) {
        std::string content(sizeof(std::uint64_t), '\0');
        content.front() = static_cast<char>(shard.header.size());
        return {file_of(content.append(shard.header).append(shard.data))};
      }
    }
    return {{}, ENOENT};
  }

 private:
  static FileDescriptor file_of(std::string_view bytes) {
    FileDescriptor file(::memfd_create("input", MFD_CLOEXEC));
    require(::write(file.number(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    return file;
  }

  std::string_view path_;
  std::string_view input_;
};

bool is_verdict(const Error& error) {
  switch (error.code()) {
    case Error::Code::not_an_image:
    case Error::Code::truncated:
    case Error::Code::malformed_header:
    case Error::Code::malformed_index:
    case Error::Code::too_large:
    case Error::Code::duplicate_name:
      return true;
    case Error::Code::system_call:
      return error.system_error() == ENOENT;
    default:
      return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(data, data + size);
  const bool is_index = input.starts_with('{');
  const std::string path = is_index ? "folder/model.safetensors.index.json" : "folder/model.safetensors";
  FolderOfInput folder(path, input);
  try {
    const Checkpoint checkpoint = Checkpoint::open(path, folder);
    require(checkpoint.files().size() <= (is_index ? kShards.size() : 1));
    for (const zerocopy::CheckpointTensor& tensor : checkpoint.tensors()) {
      require(tensor.file < checkpoint.files().size());
      const std::size_t nbytes = checkpoint.files()[tensor.file].data.size();
      require(tensor.offset <= nbytes && tensor.nbytes <= nbytes - tensor.offset);
      require(!is_index || tensor.name == "a" || tensor.name == "b" || tensor.name == "c");
    }
  } catch (const Error& error) {
    require(is_verdict(error));
  }
  return 0;
}
