// The index of a sharded checkpoint.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace zerocopy {

// A file of a sharded checkpoint, and which of its tensors the index says are in it.
struct NamedShard {
  std::string file;
  std::set<std::string, std::less<>> tensors;
};

// What the `weight_map` of an index (`model.safetensors.index.json`) says, in the order in which it first names each
// file. Whatever else the index holds is JSON of any kind, and is passed over. Throws Error: malformed_index;
// duplicate_name when a tensor is there twice; too_large for more tensors or files than the format of images allows.
std::vector<NamedShard> read_weight_map(std::string_view text);

}  // namespace zerocopy
