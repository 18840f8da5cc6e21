#include "zerocopy/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "image_file.h"
#include "zerocopy/error.h"
#include "zerocopy/view.h"

namespace zerocopy {
namespace {

using testing::golden_path;
using testing::TemporaryFile;
using testing::text_of;

std::string file_of(std::string_view header, std::string_view data) {
  std::string file;
  for (unsigned byte = 0; byte < 8; ++byte) {
    file += static_cast<char>(header.size() >> 8U * byte & 0xFFU);
  }
  return file.append(header).append(data);
}

constexpr std::string_view kHeader = R"({"b": {"dtype": "U8", "shape": [3], "data_offsets": [4, 7]}, )"
                                     R"("a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, )"
                                     R"("none": {"dtype": "BF16", "shape": [0, 5], "data_offsets": [7, 7]}})";

// What opening a file of this content throws; none when it throws nothing.
std::optional<Error::Code> refusal(std::string_view content) {
  const TemporaryFile file(content);
  try {
    Checkpoint::open(file.path());
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(file.path()), std::string::npos) << error.what();
    return error.code();
  }
  return std::nullopt;
}

TEST(Checkpoint, tensors_are_there_in_the_order_of_the_header_with_their_bytes) {
  const TemporaryFile file(file_of(kHeader, "1234567"));
  const Checkpoint checkpoint = Checkpoint::open(file.path());
  const std::vector<CheckpointTensor> expected{
      {"b", "U8", {3}, 0, 4, 3}, {"a", "F32", {}, 0, 0, 4}, {"none", "BF16", {0, 5}, 0, 7, 0}};
  EXPECT_TRUE(std::ranges::equal(checkpoint.tensors(), expected));
  ASSERT_EQ(checkpoint.files().size(), 1U);
  EXPECT_EQ(text_of(checkpoint.files()[0].data), "1234567");
  EXPECT_EQ(checkpoint.files()[0].file->name(), file.path());
}

TEST(Checkpoint, metadata_is_no_tensor_and_need_not_be_there) {
  const TemporaryFile file(file_of(R"({"__metadata__": {"format": "pt"}})", ""));
  EXPECT_TRUE(Checkpoint::open(file.path()).tensors().empty());
}

TEST(Checkpoint, an_image_is_a_checkpoint_of_its_tensors) {
  const Checkpoint checkpoint = Checkpoint::open(golden_path("v1_tensors.safetensors"));
  EXPECT_FALSE(checkpoint.tensors().empty());
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    EXPECT_FALSE(tensor.name.starts_with("zerocopy.")) << tensor.name;
  }
}

TEST(Checkpoint, a_view_of_its_data_is_private) {
  const TemporaryFile file(file_of(kHeader, "1234567"));
  const Checkpoint checkpoint = Checkpoint::open(file.path());
  const auto& [shared, data] = checkpoint.files()[0];
  const View view(std::array{data}, shared);
  EXPECT_EQ(view.copied_bytes(), 0U) << view.private_copy_reason();
  view.segment(0)[0] = std::byte{'x'};
  EXPECT_EQ(text_of(data), "1234567");
  EXPECT_EQ(text_of(view.segment(0)), "x234567");
}

TEST(Checkpoint, what_is_wrong_with_a_file_is_said_with_its_name) {
  using enum Error::Code;
  EXPECT_EQ(refusal(file_of(kHeader, "1234567")), std::nullopt);
  EXPECT_EQ(refusal(""), truncated);
  EXPECT_EQ(refusal("PK\3\4 and more"), not_an_image);
  EXPECT_EQ(refusal(file_of("[]", "")), not_an_image);
  EXPECT_EQ(refusal(file_of(kHeader, "123456")), truncated);
  EXPECT_EQ(refusal(file_of(kHeader, "12345678")), truncated);
  EXPECT_EQ(refusal(file_of(kHeader, "").substr(0, 20)), truncated);
  EXPECT_EQ(refusal(file_of(R"({"a": 1})", "")), malformed_header);
  EXPECT_EQ(refusal(file_of(R"({"a": {"dtype": "U8", "shape": [1]}})", "")), malformed_header);
  EXPECT_EQ(refusal(file_of(R"({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}})", "1")), malformed_header);
  EXPECT_EQ(refusal(file_of(R"({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}})", "1")), malformed_header);
  EXPECT_EQ(refusal(file_of(R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})", "12")),
            malformed_header);
  EXPECT_EQ(refusal(file_of(R"({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                                "b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}})",
                            "123")),
            malformed_header);
  EXPECT_EQ(refusal(file_of(R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                                "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})",
                            "12")),
            duplicate_name);
}

TEST(Checkpoint, a_file_that_is_not_there_gives_the_errno) {
  try {
    Checkpoint::open("/nowhere/model.safetensors");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Error::Code::system_call);
    EXPECT_EQ(error.system_error(), ENOENT);
  }
}

}  // namespace
}  // namespace zerocopy
