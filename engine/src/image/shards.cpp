#include "image/shards.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include "image/format.h"
#include "image/weight_map.h"
#include "system/system.h"
#include "zerocopy/error.h"
#include "zerocopy/shared_file.h"

namespace zerocopy {
namespace {

constexpr std::string_view kFile = ".safetensors";
constexpr std::string_view kIndex = ".safetensors.index.json";
constexpr std::size_t kShown = 5;

[[noreturn]] void fail(const std::string& what, int error) {
  throw Error(Error::Code::system_call, what + ": " + std::generic_category().message(error), error);
}

bool is_directory(const std::string& path, System& system) {
  const Result<FileDescriptor> opened = system.open(path);
  if (!opened.ok()) {
    fail(path + " cannot be opened", opened.error);
  }
  const Result<FileStatus> status = system.status(opened.value.number());
  if (!status.ok()) {
    fail("what " + path + " is cannot be asked for", status.error);
  }
  return status.value.kind == FileKind::directory;
}

// The one file in a folder that a checkpoint is opened by.
std::string in_directory(const std::string& directory, System& system) {
  const Result<std::vector<std::string>> names = system.names_in(directory);
  if (!names.ok()) {
    fail(directory + " cannot be listed", names.error);
  }
  for (const std::string_view ending : {kIndex, kFile}) {
    std::vector<std::string> found;
    std::ranges::copy_if(names.value, std::back_inserter(found),
                         [&](const std::string& name) { return name.ends_with(ending) && !name.starts_with('.'); });
    if (found.size() > 1) {
      std::ranges::sort(found);
      throw Error(
          Error::Code::ambiguous_path,
          in_quotes(directory) + " has several checkpoints, or parts of one: give the files of " + listed(found));
    }
    if (!found.empty()) {
      return std::filesystem::path(directory) / found.front();
    }
  }
  throw Error(Error::Code::system_call, in_quotes(directory) + " has no file *.safetensors", ENOENT);
}

std::string text_of(const std::string& path, System& system) {
  const std::shared_ptr<const SharedFile> file = SharedFile::open(path, system);
  if (file->bytes().size() > format::kMaxIndex) {
    throw Error(Error::Code::too_large, path + " has " + std::to_string(file->bytes().size()) +
                                            " bytes; the index of a checkpoint has at most " +
                                            std::to_string(format::kMaxIndex));
  }
  std::string text(file->bytes().size(), '\0');
  if (!text.empty()) {
    std::memcpy(text.data(), file->bytes().data(), text.size());
  }
  return text;
}

// Whether a name is that of something in a folder, and not a way out of it.
bool is_plain(std::string_view name) {
  constexpr std::string_view separators("/\0", 2);
  return !name.empty() && name != "." && name != ".." && name.find_first_of(separators) == std::string_view::npos;
}

std::vector<NamedShard> read_index(const std::string& path, System& system) {
  try {
    return read_weight_map(text_of(path, system));
  } catch (const Error& error) {
    if (error.code() == Error::Code::system_call) {
      throw;
    }
    throw Error(error.code(), in_quotes(path) + " is not the index of a sharded checkpoint: " + error.what());
  }
}

}  // namespace

std::vector<Shard> find_shards(const std::string& path, System& system) {
  const std::string file = is_directory(path, system) ? in_directory(path, system) : path;
  if (!file.ends_with(".json")) {
    return {{file, {}, std::nullopt}};
  }
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  std::vector<Shard> shards;
  for (NamedShard& named : read_index(file, system)) {
    if (!is_plain(named.file)) {
      throw Error(Error::Code::malformed_index,
                  in_quotes(file) + " names the file " + in_quotes(named.file) + ", which is not beside it");
    }
    shards.push_back({folder / named.file, file, std::move(named.tensors)});
  }
  return shards;
}

std::string in_quotes(std::string_view name) {
  std::string text(1, '\'');
  for (const char character : name) {
    text.append(character == '\0' ? "\\0" : std::string(1, character));  // A message ends at a zero byte.
  }
  return text.append(1, '\'');
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : std::span(names).first(std::min(names.size(), kShown))) {
    text.append(text.empty() ? "" : ", ").append(in_quotes(name));
  }
  if (names.size() > kShown) {
    text.append(" and ").append(std::to_string(names.size() - kShown)).append(" more");
  }
  return text;
}

}  // namespace zerocopy
