// The bad files and the comparison with a second reader are in tests/test_image_format.py.
#include "zerocopy/image.h"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "forwarding_system.h"
#include "image/digest.h"
#include "image_file.h"
#include "process_state.h"
#include "window/prefault.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using testing::content_of;
using testing::golden_path;
using testing::open_descriptors;
using testing::TemporaryFile;
using testing::text_of;

Image pipelines() { return Image::open(golden_path("v1_pipelines.safetensors")); }

// The code of what is thrown; none when nothing is.
template <typename Step>
std::optional<Error::Code> code_of(Step step) {
  try {
    step();
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}

// A copy of the golden file with another byte in a place of its data.
std::string spoiled(std::size_t at) {
  constexpr std::size_t data = 4096;
  std::string content = content_of(golden_path("v1_pipelines.safetensors"));
  content.at(data + at) ^= 1;
  return content;
}

TEST(Image, tensors_are_found_by_their_names) {
  const Image image = pipelines();
  EXPECT_EQ(image.tensors().size(), 9U);
  const Tensor* const transposed = image.find("a.transposed");
  ASSERT_NE(transposed, nullptr);
  EXPECT_EQ(*transposed, (Tensor{"a.transposed", "F32", {3, 4}, {1, 3}, 0, 0}));
  EXPECT_EQ(image.find("a"), nullptr);
  EXPECT_EQ(image.find("z"), nullptr);
  EXPECT_NE(Image::open(golden_path("v1_tensors.safetensors")).find("größe"), nullptr);
}

TEST(Image, tied_tensors_and_views_have_the_bytes_of_one_block) {
  const Image image = pipelines();
  const std::span<const std::byte> weight = image.block(image.find("a.weight")->block);
  EXPECT_EQ(weight.data(), image.block(image.find("a.tied")->block).data());
  const Tensor& column = *image.find("a.column");
  float third = 0;
  std::memcpy(&third, weight.subspan(column.offset + 2 * column.strides[0] * *item_size(column.dtype)).data(),
              sizeof third);
  EXPECT_EQ(third, 8.0F);
}

TEST(Image, overlapping_blocks_overlap_and_a_block_without_bytes_has_none) {
  const Image image = pipelines();
  EXPECT_EQ(image.block(3).data(), image.block(2).data() + 32);
  EXPECT_TRUE(image.block(4).empty());
  EXPECT_EQ(image.blocks()[4], (Block{std::nullopt, 0, 0}));
}

TEST(Image, roots_archives_and_programs_are_as_they_were_written) {
  const Image image = pipelines();
  EXPECT_EQ(
      std::vector(image.roots().begin(), image.roots().end()),
      (std::vector<Root>{{"a", 0, {}, std::nullopt, {0, 1, 4}, {0, 1}, {}}, {"b", 1, {3}, 0, {1, 2}, {1, 2}, {2}}}));
  ASSERT_EQ(image.archives().size(), 1U);
  EXPECT_EQ(image.archives()[0], (Archive{2, {2, 1}, {60, 8}, false, {{0, 0, {}}, {1, 0, {"encoder", "layer"}}}}));
  ASSERT_EQ(image.programs().size(), 1U);
  EXPECT_EQ(image.programs()[0], (Program{3, {{"weight", "F32", {4, 3}, {3, 1}, 0, 0}}}));
  EXPECT_EQ(image.producer(), "by hand");
  EXPECT_EQ(image.metadata().at("license"), "apache-2.0");
  EXPECT_EQ(image.digest(), digest_of(std::as_bytes(std::span(image.index()))));
}

TEST(Image, a_copy_keeps_the_file_and_what_was_asked_of_the_first_one) {
  std::optional<Image> first = pipelines();
  const std::span<const Tensor> tensors = first->tensors();
  const std::span<const std::byte> blob = first->blob(0);
  const Image copy = *first;
  first.reset();
  EXPECT_EQ(tensors.data(), copy.tensors().data());
  EXPECT_EQ(text_of(blob), "skeleton of a");
}

TEST(Image, a_view_has_the_segments_that_are_asked_for_and_no_others) {
  std::optional<Image> image = pipelines();
  const std::string expected = text_of(image->segment(2)) + text_of(image->segment(0));
  const View view = image->view(std::array{2U, 0U});
  image.reset();
  EXPECT_EQ(view.private_copy_reason(), "");
  EXPECT_EQ(view.size(), 2U);
  EXPECT_EQ(text_of(view.segment(0)) + text_of(view.segment(1)), expected);
  view.segment(0)[0] ^= std::byte{1};
  EXPECT_EQ(view.diverged_bytes(), testing::page_size());
  EXPECT_TRUE(pipelines().verify().empty());
}

TEST(Image, numbers_of_parts_that_do_not_exist_are_refused) {
  const Image image = pipelines();
  EXPECT_EQ(code_of([&] { static_cast<void>(image.segment(3)); }), Error::Code::no_such_segment);
  EXPECT_EQ(code_of([&] { static_cast<void>(image.block(5)); }), Error::Code::no_such_block);
  EXPECT_EQ(code_of([&] { static_cast<void>(image.blob(5)); }), Error::Code::no_such_blob);
  EXPECT_EQ(code_of([&] { static_cast<void>(image.view(std::array{0U, 3U})); }), Error::Code::no_such_segment);
  EXPECT_EQ(code_of([&] { static_cast<void>(image.verify(0)); }), Error::Code::bad_thread_count);
  EXPECT_EQ(code_of([&] { static_cast<void>(image.verify(Prefault::max_threads + 1)); }),
            Error::Code::bad_thread_count);
}

TEST(Image, damage_to_a_segment_is_found_by_verify_alone) {
  const TemporaryFile file(spoiled(4095));
  const Image image = Image::open(file.path());
  for (const unsigned threads : {1U, 3U, Prefault::max_threads}) {
    const std::vector<Damage> damages = image.verify(threads);
    ASSERT_EQ(damages.size(), 1U);
    EXPECT_EQ(damages[0],
              (Damage{Damage::Part::segment, 0, digest_of(pipelines().segment(0)), digest_of(image.segment(0))}));
  }
}

TEST(Image, a_damaged_blob_is_refused_each_time_that_it_is_asked_for) {
  constexpr std::size_t second_blob = 12352;
  const TemporaryFile file(spoiled(second_blob));
  const Image image = Image::open(file.path());
  EXPECT_EQ(text_of(image.blob(0)), "skeleton of a");
  for (int time = 0; time < 2; ++time) {
    EXPECT_EQ(code_of([&] { static_cast<void>(image.blob(1)); }), Error::Code::damaged);
  }
}

TEST(Image, a_file_that_is_refused_is_named_and_closed) {
  const TemporaryFile file("{\"a checkpoint\": of another kind}");
  const std::size_t before = open_descriptors();
  try {
    Image::open(file.path());
    FAIL() << "it was opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Error::Code::not_an_image);
    EXPECT_TRUE(std::string_view(error.what()).starts_with(file.path() + " cannot be read as an image: "))
        << error.what();
  }
  EXPECT_EQ(open_descriptors(), before);
}

// The golden file in parts.
ImageParts golden_parts() {
  const Image image = pipelines();
  ImageParts parts{std::string(image.index()), {}, {}, image.file()};
  for (std::size_t number = 0; number < image.segment_count(); ++number) {
    parts.segments.push_back(image.segment(number));
  }
  for (std::size_t number = 0; number < image.blob_count(); ++number) {
    parts.blobs.push_back(image.blob(number));
  }
  return parts;
}

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  return text.replace(text.find(what), what.size(), by);
}

// The digest of the golden file's first segment, in quotes.
std::string first_digest() { return '"' + digest_of(pipelines().segment(0)) + '"'; }

TEST(Image, the_parts_of_a_file_are_the_same_image) {
  const Image file = pipelines();
  const Image image = Image::assemble(golden_parts());
  EXPECT_EQ(image.file(), nullptr);
  EXPECT_TRUE(image.metadata().empty());
  EXPECT_EQ(image.index(), file.index());
  EXPECT_EQ(image.digest(), file.digest());
  EXPECT_EQ(image.find("a.transposed")->strides, file.find("a.transposed")->strides);
  EXPECT_EQ(text_of(image.block(0)), text_of(file.block(0)));
  EXPECT_EQ(text_of(image.blob(1)), text_of(file.blob(1)));
  EXPECT_TRUE(image.verify(2).empty());
}

TEST(Image, a_view_of_parts_keeps_their_owner) {
  std::optional<Image> image = Image::assemble(golden_parts());
  const std::string expected = text_of(image->segment(2));
  View view = image->view(std::array{2U});
  image.reset();
  EXPECT_EQ(view.private_copy_reason(), "");
  EXPECT_EQ(text_of(view.segment(0)), expected);
  view.reset();
  EXPECT_EQ(text_of(view.segment(0)), expected);
}

TEST(Image, parts_may_have_no_digest_and_are_then_not_verified) {
  ImageParts parts = golden_parts();
  const std::string spoiled_segment(parts.segments[0].size(), 'x');
  parts.segments[0] = std::as_bytes(std::span(spoiled_segment));
  EXPECT_EQ(Image::assemble(parts).verify().size(), 1U);
  parts.index = replaced(parts.index, first_digest(), "null");
  EXPECT_TRUE(Image::assemble(parts).verify().empty());
}

TEST(Image, a_blob_without_a_digest_is_given_as_it_is) {
  ImageParts parts = golden_parts();
  const std::string other(parts.blobs[0].size(), 'x');
  const std::string digest = '"' + digest_of(parts.blobs[0]) + '"';
  parts.blobs[0] = std::as_bytes(std::span(other));
  EXPECT_EQ(code_of([&] { static_cast<void>(Image::assemble(parts).blob(0)); }), Error::Code::damaged);
  parts.index = replaced(parts.index, digest, "null");
  EXPECT_EQ(text_of(Image::assemble(parts).blob(0)), other);
}

TEST(Image, parts_that_are_others_than_the_index_says_are_refused) {
  const auto refusal = [](auto change) {
    ImageParts parts = golden_parts();
    change(parts);
    return code_of([&] { Image::assemble(parts); });
  };
  EXPECT_EQ(refusal([](ImageParts&) {}), std::nullopt);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.segments.pop_back(); }), Error::Code::malformed_index);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.blobs.push_back(parts.blobs[0]); }), Error::Code::malformed_index);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.segments[1] = parts.segments[1].first(4095); }),
            Error::Code::truncated);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.blobs[1] = {}; }), Error::Code::truncated);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.index.pop_back(); }), Error::Code::malformed_index);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.index = "{}"; }), Error::Code::malformed_index);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.index = replaced(parts.index, first_digest(), "0"); }),
            Error::Code::malformed_index);
  EXPECT_EQ(refusal([](ImageParts& parts) { parts.index.resize(100'000'001, ' '); }), Error::Code::too_large);
}

TEST(Image, the_error_for_parts_says_that_it_is_of_parts) {
  try {
    Image::assemble({"{}", {}, {}, nullptr});
    FAIL() << "it was put together";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string_view(error.what()).starts_with("an image cannot be put together from its parts: "))
        << error.what();
  }
}

TEST(Image, item_sizes_are_known_of_the_dtypes_of_the_format_only) {
  EXPECT_EQ(item_size("BF16"), 2U);
  EXPECT_EQ(item_size("C128"), 16U);
  EXPECT_EQ(item_size("F4"), std::nullopt);
  EXPECT_EQ(item_size(""), std::nullopt);
}

// Refuses the nth call, of those that opening and reading an image makes.
class RefusesOne : public testing::ForwardingSystem {
 public:
  explicit RefusesOne(std::size_t nth) : nth_(nth) {}

  Result<FileDescriptor> open(const std::string& path) override {
    return refused() ? Result<FileDescriptor>{{}, EMFILE} : ForwardingSystem::open(path);
  }
  Result<FileStatus> status(int descriptor) override {
    return refused() ? Result<FileStatus>{{}, EIO} : ForwardingSystem::status(descriptor);
  }
  Result<std::byte*> map_shared(int descriptor, std::size_t length) override {
    if (refused()) {
      return {nullptr, ENOMEM};
    }
    ++mapped_;
    return ForwardingSystem::map_shared(descriptor, length);
  }
  int unmap(std::span<std::byte> range) override {
    --mapped_;
    return ForwardingSystem::unmap(range);
  }

  [[nodiscard]] bool has_refused() const { return made_ > nth_; }
  [[nodiscard]] int mapped() const { return mapped_; }

 private:
  bool refused() { return made_++ == nth_; }

  std::size_t nth_;
  std::size_t made_ = 0;
  int mapped_ = 0;
};

TEST(Image, each_call_of_opening_a_file_fails_once_and_nothing_is_left_open_or_mapped) {
  const std::size_t before = open_descriptors();
  std::size_t nth = 0;
  for (bool refused = true; refused; ++nth) {
    RefusesOne system(nth);
    const auto code = code_of([&] {
      const Image image = Image::open(golden_path("v1_tensors.safetensors"), system);
      EXPECT_EQ(image.tensors().size(), 3U);
    });
    refused = system.has_refused();
    EXPECT_EQ(code, refused ? std::optional(Error::Code::system_call) : std::nullopt);
    EXPECT_EQ(system.mapped(), 0);
    EXPECT_EQ(open_descriptors(), before);
  }
  EXPECT_EQ(nth, 4U);
}

}  // namespace
}  // namespace zerocopy
