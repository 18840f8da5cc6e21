// Which files a checkpoint consists of.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace zerocopy {

class System;

// A file of a checkpoint that has not been opened yet.
struct Shard {
  std::string path;
  std::string index;  // The path of the index that names it; empty: none does.

  // Those of its tensors that are the checkpoint's; none: all of them.
  std::optional<std::set<std::string, std::less<>>> tensors;
};

// The files of the checkpoint at `path`, as Checkpoint::open() has it. None of them has been looked at. Throws Error as
// that does.
std::vector<Shard> find_shards(const std::string& path, System& system);

// A name between quotation marks, for a message, and several of them: of many only the first few.
std::string in_quotes(std::string_view name);
std::string listed(const std::vector<std::string>& names);

}  // namespace zerocopy
