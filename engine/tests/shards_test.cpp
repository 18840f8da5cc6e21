// Checkpoints in several files: what finds them, and what they say of each other.
#include "image/shards.h"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "attempt.h"
#include "folder.h"
#include "forwarding_system.h"
#include "image_file.h"
#include "zerocopy/error.h"
#include "zerocopy/safetensors.h"

namespace zerocopy {
namespace {

using testing::Folder;
using testing::ForwardingSystem;
using testing::refusal;
using testing::text_of;

// A safetensors file with a byte for each of these tensors.
std::string file_of(const std::vector<std::string>& names) {
  std::string header = "{";
  for (std::size_t at = 0; at < names.size(); ++at) {
    header += (at == 0 ? "\"" : ",\"") + names[at] + R"(": {"dtype": "U8", "shape": [1], "data_offsets": [)" +
              std::to_string(at) + "," + std::to_string(at + 1) + "]}";
  }
  header += '}';
  std::string data;
  for (const std::string& name : names) {
    data += name.front();
  }
  return std::string(1, static_cast<char>(header.size())).append(7, '\0') + header + data;
}

// A folder with a checkpoint of two shards, with the tensors a and b, and c and d.
class Sharded : public ::testing::Test {
 protected:
  Sharded() {
    write("one.safetensors", file_of({"a", "b"}));
    write("two.safetensors", file_of({"c", "d"}));
  }

  void write(const std::string& name, std::string_view content) const {
    std::ofstream(folder_.file(name), std::ios::binary) << content;
  }

  [[nodiscard]] std::string index() const { return folder_.file("model.safetensors.index.json"); }
  [[nodiscard]] std::string path() const { return folder_.file(""); }

  void write_index(std::string_view text) const { write("model.safetensors.index.json", text); }

  // What opening the checkpoint with this index throws.
  [[nodiscard]] Error refusal_of(std::string_view text) const {
    write_index(text);
    return refusal_at(index());
  }

  static Error refusal_at(const std::string& path) {
    return refusal([&] { Checkpoint::open(path); });
  }

  static std::string names_of(const Checkpoint& checkpoint) {
    std::string names;
    for (const CheckpointTensor& tensor : checkpoint.tensors()) {
      names += tensor.name;
      EXPECT_EQ(text_of(checkpoint.files()[tensor.file].data.subspan(tensor.offset, tensor.nbytes)), tensor.name);
    }
    return names;
  }

 private:
  Folder folder_;
};

constexpr std::string_view kIndex = R"({"metadata": {"total_size": 4.5e0, "more": [[{}]]}, "weight_map": {
    "d": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"}})";

TEST_F(Sharded, an_index_says_which_tensors_of_which_files_are_the_checkpoint) {
  write_index(kIndex);
  const Checkpoint checkpoint = Checkpoint::open(index());
  EXPECT_EQ(names_of(checkpoint), "dab");
  EXPECT_EQ(checkpoint.files().size(), 2U);
}

TEST_F(Sharded, a_folder_is_opened_by_its_index_or_by_its_only_file) {
  EXPECT_EQ(refusal_at(path()).code(), Error::Code::ambiguous_path);
  write_index(kIndex);
  write(".hidden.safetensors.index.json", "{}");
  EXPECT_EQ(names_of(Checkpoint::open(path())), "dab");
  write("other.safetensors.index.json", kIndex);
  const Error error = refusal_at(path());
  EXPECT_EQ(error.code(), Error::Code::ambiguous_path);
  EXPECT_NE(std::string_view(error.what()).find("'model.safetensors.index.json', 'other.safetensors.index.json'"),
            std::string_view::npos)
      << error.what();
  const Folder single;
  std::ofstream(single.file("x.safetensors"), std::ios::binary) << file_of({"x"});
  EXPECT_EQ(names_of(Checkpoint::open(single.file(""))), "x");
}

TEST_F(Sharded, several_paths_are_one_checkpoint_without_a_name_twice) {
  const std::string one = path() + "one.safetensors";
  EXPECT_EQ(names_of(Checkpoint::open(std::array{path() + "two.safetensors", one})), "cdab");
  const Error error = refusal([&] { Checkpoint::open(std::array{one, one}); });
  EXPECT_EQ(error.code(), Error::Code::duplicate_name);
  EXPECT_NE(std::string_view(error.what()).find("two tensors 'a', the second in '" + one), std::string_view::npos);
}

TEST_F(Sharded, a_folder_without_a_checkpoint_is_like_a_file_that_is_not_there) {
  const Folder empty;
  for (const std::string& path : {empty.file(""), empty.file("none.safetensors"), empty.file("none.json")}) {
    const Error error = refusal_at(path);
    EXPECT_EQ(error.code(), Error::Code::system_call);
    EXPECT_EQ(error.system_error(), ENOENT);
  }
}

TEST_F(Sharded, no_name_leads_out_of_the_folder) {
  for (const std::string name :
       {"", ".", "..", "../one.safetensors", "/etc/passwd", "a/b", "one.safetensors/", R"(one.safetensors\u0000)"}) {
    const Error error = refusal_of(R"({"weight_map": {"a": ")" + name + R"("}})");
    EXPECT_EQ(error.code(), Error::Code::malformed_index) << name;
    EXPECT_NE(std::string_view(error.what()).find("which is not beside it"), std::string_view::npos) << error.what();
  }
}

TEST_F(Sharded, what_an_index_names_must_be_there) {
  const Error missing = refusal_of(R"({"weight_map": {"a": "one.safetensors", "x": "three.safetensors"}})");
  EXPECT_EQ(missing.code(), Error::Code::system_call);
  EXPECT_EQ(missing.system_error(), ENOENT);
  EXPECT_NE(std::string_view(missing.what()).find("index.json' names: "), std::string_view::npos) << missing.what();
  EXPECT_NE(std::string_view(missing.what()).find("three.safetensors cannot be opened"), std::string_view::npos);

  const Error lacking = refusal_of(R"({"weight_map": {"a": "one.safetensors", "c": "one.safetensors"}})");
  EXPECT_EQ(lacking.code(), Error::Code::malformed_index);
  EXPECT_TRUE(std::string_view(lacking.what())
                  .ends_with("one.safetensors' lacks what the index of the checkpoint says "
                             "is in it: 'c'"))
      << lacking.what();

  write("three.safetensors", "PK");
  EXPECT_EQ(refusal_of(R"({"weight_map": {"x": "three.safetensors"}})").code(), Error::Code::truncated);
  // An image's own entries are no tensors.
  write("three.safetensors", file_of({"zerocopy.run.0"}));
  EXPECT_EQ(refusal_of(R"({"weight_map": {"zerocopy.run.0": "three.safetensors"}})").code(),
            Error::Code::malformed_index);
  // Whoever names a folder does not open what is in it.
  std::filesystem::create_directory(path() + "folder");
  EXPECT_EQ(refusal_of(R"({"weight_map": {"x": "folder"}})").system_error(), EISDIR);
}

TEST_F(Sharded, what_is_no_index_is_refused) {
  using enum Error::Code;
  const std::string deep(100'000, '[');
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{}"), deep, "{\"x\": " + deep,
        std::string(R"({"weight_map": {}} more)"), std::string(R"({"weight_map": []})"),
        std::string(R"({"weight_map": "x"})"), std::string(R"({"weight_map": 1})"),
        std::string(R"({"metadata": {"weight_map": {"a": "one.safetensors"}}})"),
        std::string(R"([{"weight_map": {"a": "one.safetensors"}}])"), std::string(R"({"weight_map": {"a": 5}})"),
        std::string(R"({"weight_map": {"a": []}})"), std::string(R"({"weight_map": {"a": {"b": "one.safetensors"}}})"),
        std::string(R"({"weight_map": {}, "weight_map": {}})"),
        std::string(R"({"weight_map": {"a": "one.safetensors"})"), std::string("{\"weight_map\": {}}\0", 19),
        std::string("{\"weight_map\": {\"\xff\": 1}}")}) {
    const Error error = refusal_of(text);
    EXPECT_EQ(error.code(), malformed_index) << text.substr(0, 80);
    EXPECT_NE(std::string_view(error.what()).find("is not the index of a sharded checkpoint: "), std::string_view::npos)
        << error.what();
  }
  EXPECT_EQ(refusal_of(R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})").code(), duplicate_name);
  EXPECT_EQ(refusal_of(R"({"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}})").code(), duplicate_name);
}

TEST_F(Sharded, limits_hold) {
  std::string files;
  for (int number = 0; number <= 65'536; ++number) {
    const std::string name = std::to_string(number);
    files.append(number == 0 ? "\"" : ",\"").append(name).append("\":\"").append(name).append("\"");
  }
  EXPECT_EQ(refusal_of(R"({"weight_map": {)" + files + "}}").code(), Error::Code::too_large);
  std::filesystem::resize_file(index(), 100'000'001);
  EXPECT_EQ(refusal_at(index()).code(), Error::Code::too_large);
}

TEST_F(Sharded, what_the_system_refuses_is_said) {
  class Unlisted : public ForwardingSystem {
   public:
    Result<std::vector<std::string>> names_in(const std::string& /*directory*/) override { return {{}, EACCES}; }
  } unlisted;
  class Unknown : public ForwardingSystem {
   public:
    Result<FileStatus> status(int /*descriptor*/) override { return {{}, EIO}; }
  } unknown;
  EXPECT_EQ(refusal([&] { Checkpoint::open(path(), unlisted); }).system_error(), EACCES);
  EXPECT_EQ(refusal([&] { Checkpoint::open(path(), unknown); }).system_error(), EIO);
}

TEST(Names, of_many_the_first_few_are_listed) {
  EXPECT_EQ(listed({"a", "b"}), "'a', 'b'");
  EXPECT_EQ(listed({"a", "b", "c", "d", "e", "f", "g"}), "'a', 'b', 'c', 'd', 'e' and 2 more");
}

}  // namespace
}  // namespace zerocopy
