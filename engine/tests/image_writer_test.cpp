#include "zerocopy/image_writer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "folder.h"
#include "forwarding_system.h"
#include "image/format.h"
#include "image/layout.h"
#include "process_state.h"
#include "zerocopy/error.h"
#include "zerocopy/image.h"

namespace zerocopy {
namespace {

using testing::Folder;
using testing::ForwardingSystem;
using testing::open_descriptors;

std::string content_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void put(const std::string& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

std::vector<std::byte> some_bytes(std::size_t count, unsigned seed) {
  std::vector<std::byte> bytes(count);
  for (std::size_t at = 0; at < count; ++at) {
    bytes[at] = static_cast<std::byte>((at * 37U + at / 251U + seed) & 0xFFU);
  }
  return bytes;
}

template <typename Call>
std::optional<Error::Code> refusal(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}

Tensor bytes_tensor(std::string name, std::uint64_t count, std::uint32_t block, std::uint64_t offset = 0) {
  return {std::move(name), "U8", {count}, {1}, block, offset};
}

bool are_equal(std::span<const std::byte> one, std::span<const std::byte> other) {
  return std::ranges::equal(one, other);
}

// Two roots with blocks of all sizes, an archive, a program, named tensors, metadata.
class Content {
 public:
  explicit Content(System& system = System::real()) : writer_("a test", system) {
    std::vector<std::uint32_t> numbers;
    for (const std::span<const std::byte> block : blocks()) {
      numbers.push_back(writer_.add_block(block));
    }
    const std::uint32_t skeleton = writer_.add_blob(skeleton_);
    const std::uint32_t records = writer_.add_blob({});
    const std::uint32_t package = writer_.add_blob(package_);
    writer_.add_tensor({"large", "F32", {250, 300}, {300, 1}, 0, 0});
    writer_.add_tensor({"tied", "F32", {250, 300}, {300, 1}, 0, 0});
    writer_.add_tensor({"transposed", "F32", {250, 300}, {1, 250}, 0, 0});
    writer_.add_tensor({"part of a run", "I16", {50}, {1}, 1, 8});
    writer_.add_tensor({"small", "BF16", {3, 1, 5}, {5, 77, 1}, 3, 0});
    writer_.add_tensor({"complex", "C128", {4}, {1}, 4, 0});
    writer_.add_tensor({"empty", "F64", {0, 3}, {3, 1}, 5, 0});
    writer_.add_tensor({"scalar", "I64", {}, {}, 6, 0});
    const std::uint32_t archive =
        writer_.add_archive({records, {6, 0}, {8, 300'000}, false, {{0, 0, {}}, {7, 0, {"encoder", "0"}}}});
    writer_.add_root({"model", skeleton, {4}, archive, {0, 1, 3}, {}, {}}, std::array{std::uint32_t{5}});
    writer_.add_root({"other", skeleton, {}, std::nullopt, {1, 2}, {}, {}}, {});
    writer_.add_program({package, {{"w", "F32", {10, 100}, {100, 1}, 0, 4000}}});
    writer_.add_metadata("author", "näme \"quoted\"");
  }

  [[nodiscard]] const ImageWriter& writer() const { return writer_; }

  [[nodiscard]] std::vector<std::span<const std::byte>> blocks() const {
    const std::span<const std::byte> memory(memory_);
    return {memory.first(300'000),           memory.subspan(400'000, 70'000),
            memory.subspan(460'000, 20'000),  // overlaps with the one before
            memory.subspan(500'000, 30),     memory.subspan(500'100, 64),
            memory.subspan(500'200, 0),      memory.subspan(500'300, 8)};
  }

  [[nodiscard]] std::span<const std::byte> skeleton() const { return skeleton_; }
  [[nodiscard]] std::span<const std::byte> package() const { return package_; }

 private:
  std::vector<std::byte> memory_ = some_bytes(600'000, 1);
  std::vector<std::byte> skeleton_ = some_bytes(77, 2);
  std::vector<std::byte> package_ = some_bytes(2'000'001, 3);
  ImageWriter writer_;
};

TEST(ImageWriter, what_is_written_is_what_is_read) {
  const Folder folder;
  const Content content;
  const std::string digest = content.writer().write(folder.file());
  const Image image = Image::open(folder.file());
  EXPECT_TRUE(image.verify(2).empty());
  EXPECT_EQ(image.digest(), digest);
  EXPECT_EQ(image.producer(), "a test");
  EXPECT_EQ(image.metadata().size(), 1U);
  EXPECT_EQ(image.metadata().at("author"), "näme \"quoted\"");
  const auto blocks = content.blocks();
  ASSERT_EQ(image.blocks().size(), blocks.size());
  for (std::size_t number = 0; number < blocks.size(); ++number) {
    EXPECT_TRUE(are_equal(image.block(number), blocks[number])) << number;
  }
  EXPECT_EQ(image.block(2).data() - image.block(1).data(), 60'000);
  EXPECT_TRUE(are_equal(image.blob(0), content.skeleton()));
  EXPECT_TRUE(image.blob(1).empty());
  EXPECT_TRUE(are_equal(image.blob(2), content.package()));
  ASSERT_NE(image.find("transposed"), nullptr);
  EXPECT_EQ(*image.find("transposed"), (Tensor{"transposed", "F32", {250, 300}, {1, 250}, 0, 0}));
  EXPECT_EQ(image.tensors().size(), 8U);
  ASSERT_EQ(image.archives().size(), 1U);
  EXPECT_EQ(image.archives()[0], (Archive{1, {6, 0}, {8, 300'000}, false, {{0, 0, {}}, {7, 0, {"encoder", "0"}}}}));
  ASSERT_EQ(image.programs().size(), 1U);
  EXPECT_EQ(image.programs()[0], (Program{2, {{"w", "F32", {10, 100}, {100, 1}, 0, 4000}}}));
}

TEST(ImageWriter, a_root_has_the_segments_of_its_blocks_and_no_others) {
  const Folder folder;
  const Content content;
  content.writer().write(folder.file());
  const Image image = Image::open(folder.file());
  // Blocks 0, 3, 4 and 6 are the first root's, the run of 1 and 2 is both's.
  ASSERT_EQ(image.segment_count(), 2U);
  ASSERT_EQ(image.roots().size(), 2U);
  EXPECT_EQ(image.roots()[0], (Root{"model", 0, {4}, 0, {0, 1, 3}, {0, 1}, {0}}));
  EXPECT_EQ(image.roots()[1], (Root{"other", 0, {}, std::nullopt, {1, 2}, {1}, {}}));
}

TEST(ImageWriter, parts_are_the_same_image_without_a_file) {
  const Content content;
  const Image image = Image::assemble(content.writer().parts());
  const auto blocks = content.blocks();
  ASSERT_EQ(image.blocks().size(), blocks.size());
  for (std::size_t number = 0; number < blocks.size(); ++number) {
    EXPECT_TRUE(are_equal(image.block(number), blocks[number])) << number;
  }
  const Folder folder;
  content.writer().write(folder.file());
  const Image file = Image::open(folder.file());
  EXPECT_TRUE(std::ranges::equal(image.tensors(), file.tensors()));
  EXPECT_TRUE(std::ranges::equal(image.archives(), file.archives()));
  EXPECT_TRUE(std::ranges::equal(image.programs(), file.programs()));
  EXPECT_EQ(image.producer(), file.producer());
  EXPECT_EQ(image.blob(2).data(), content.package().data());
}

TEST(ImageWriter, in_parts_large_blocks_lie_where_they_were_and_small_ones_together) {
  const Content content;
  const ImageParts parts = content.writer().parts();
  const Image image = Image::assemble(parts);
  const auto blocks = content.blocks();
  // Block 0; the run of 1 and 2; blocks 3, 4 and 6.
  ASSERT_EQ(parts.segments.size(), 3U);
  EXPECT_EQ(image.block(0).data(), blocks[0].data());
  EXPECT_EQ(image.block(1).data(), blocks[1].data());
  EXPECT_EQ(image.block(2).data(), blocks[2].data());
  EXPECT_EQ(image.block(4).data() - image.block(3).data(), 64);
  EXPECT_EQ(image.block(6).data() - image.block(3).data(), 128);
  EXPECT_EQ(image.roots()[0], (Root{"model", 0, {4}, 0, {0, 1, 3}, {0, 1, 2}, {2}}));
  EXPECT_EQ(image.roots()[1], (Root{"other", 0, {}, std::nullopt, {1, 2}, {1}, {}}));
}

TEST(ImageWriter, blocks_that_are_to_lie_apart_do) {
  const Content content;
  const Image image = Image::assemble(content.writer().parts({false, {6, 2}}));
  EXPECT_EQ(image.segment_count(), 4U);
  EXPECT_NE(image.blocks()[6].segment, image.blocks()[3].segment);
  EXPECT_EQ(image.blocks()[4].segment, image.blocks()[3].segment);
  EXPECT_EQ(image.blocks()[1].segment, image.blocks()[2].segment);
  EXPECT_EQ(refusal([&] { static_cast<void>(content.writer().parts({false, {7}})); }), Error::Code::no_such_block);
}

TEST(ImageWriter, parts_of_small_blocks_outlive_the_writer) {
  const std::vector<std::byte> bytes = some_bytes(100, 1);
  std::optional<Image> image;
  {
    ImageWriter writer("");
    writer.add_block(bytes);
    image = Image::assemble(writer.parts());
  }
  EXPECT_TRUE(are_equal(image->block(0), bytes));
  EXPECT_NE(image->block(0).data(), bytes.data());
}

TEST(ImageWriter, an_image_of_nothing_is_an_image) {
  const Folder folder;
  const std::string digest = ImageWriter("").write(folder.file());
  const Image image = Image::open(folder.file());
  EXPECT_EQ(image.digest(), digest);
  EXPECT_EQ(image.segment_count() + image.blob_count() + image.tensors().size(), 0U);
  EXPECT_EQ(Image::assemble(ImageWriter("").parts()).segment_count(), 0U);
}

TEST(ImageWriter, tensors_that_are_whole_runs_have_entries_and_others_have_not) {
  const Folder folder;
  const Content content;
  content.writer().write(folder.file());
  const std::string file = content_of(folder.file());
  const std::string header = file.substr(8, file.find("   ") - 8);
  for (const char* name : {"large", "small", "scalar"}) {
    EXPECT_NE(header.find("\"" + std::string(name) + "\":{"), std::string::npos) << name;
  }
  for (const char* name : {"tied", "transposed", "part of a run", "complex", "empty"}) {
    EXPECT_EQ(header.find("\"" + std::string(name) + "\":{"), std::string::npos) << name;
  }
}

TEST(ImageWriter, the_same_content_is_the_same_file_with_any_number_of_threads) {
  const Folder folder;
  Content().writer().write(folder.file("one"), {1, {}});
  for (const unsigned threads : {2U, 3U, 64U}) {
    Content().writer().write(folder.file("other"), {threads, {}});
    EXPECT_TRUE(content_of(folder.file("one")) == content_of(folder.file("other"))) << threads;
  }
}

TEST(ImageWriter, a_file_takes_the_place_of_another_which_its_readers_keep) {
  const Folder folder;
  const Content content;
  ImageWriter("the first").write(folder.file());
  const Image first = Image::open(folder.file());
  content.writer().write(folder.file());
  EXPECT_EQ(first.producer(), "the first");
  EXPECT_TRUE(first.verify().empty());
  EXPECT_EQ(Image::open(folder.file()).producer(), "a test");
  EXPECT_EQ(folder.size(), 1U);
}

TEST(ImageWriter, a_new_file_has_the_permissions_that_the_umask_leaves) {
  const Folder folder;
  const mode_t before = ::umask(0027);
  ImageWriter("").write(folder.file());
  ::umask(before);
  EXPECT_EQ(std::filesystem::status(folder.file()).permissions(), static_cast<std::filesystem::perms>(0640));
}

TEST(ImageWriter, a_file_that_takes_the_place_of_another_has_its_permissions) {
  class NothingUnnamed final : public ForwardingSystem {
   public:
    Result<FileDescriptor> create_unnamed(const std::string& /*directory*/) override { return {{}, EOPNOTSUPP}; }
  } nothing_unnamed;
  for (System* const system : {&System::real(), static_cast<System*>(&nothing_unnamed)}) {
    const Folder folder;
    put(folder.file(), "before");
    constexpr auto secret = std::filesystem::perms::owner_read | std::filesystem::perms::owner_write;
    std::filesystem::permissions(folder.file(), secret);
    ImageWriter("", *system).write(folder.file());
    EXPECT_EQ(std::filesystem::status(folder.file()).permissions(), secret);
    EXPECT_EQ(Image::open(folder.file()).producer(), "");
  }
}

TEST(ImageWriter, what_is_no_regular_file_keeps_its_place) {
  const Folder folder;
  ASSERT_EQ(::mkfifo(folder.file("pipe").c_str(), S_IRUSR | S_IWUSR), 0);
  std::filesystem::create_directory(folder.file("directory"));
  for (const char* const name : {"pipe", "directory"}) {
    const std::string path = folder.file(name);
    EXPECT_EQ(refusal([&] { ImageWriter("").write(path); }), Error::Code::system_call);
    EXPECT_FALSE(std::filesystem::is_regular_file(path));
  }
  EXPECT_EQ(folder.size(), 2U);
}

TEST(ImageWriter, progress_rises_to_the_total_in_the_callers_thread) {
  const Folder folder;
  const Content content;
  const auto caller = std::this_thread::get_id();
  std::vector<std::uint64_t> reports;
  std::uint64_t all = 0;
  content.writer().write(folder.file(), {3, [&](std::uint64_t written, std::uint64_t total) {
                                           EXPECT_EQ(std::this_thread::get_id(), caller);
                                           reports.push_back(written);
                                           all = total;
                                         }});
  ASSERT_FALSE(reports.empty());
  EXPECT_TRUE(std::ranges::is_sorted(reports));
  EXPECT_EQ(reports.back(), all);
  EXPECT_GE(all, 2'300'000U);
  EXPECT_LE(all, std::filesystem::file_size(folder.file()));
}

TEST(ImageWriter, what_progress_throws_ends_the_writing_and_leaves_nothing) {
  const Folder folder;
  const Content content;
  for (const unsigned threads : {1U, 3U}) {
    const auto stop = [](std::uint64_t /*written*/, std::uint64_t /*total*/) { throw std::out_of_range("enough"); };
    EXPECT_THROW(content.writer().write(folder.file(), {threads, stop}), std::out_of_range);
    EXPECT_EQ(folder.size(), 0U);
  }
}

TEST(ImageWriter, what_no_image_has_is_refused_when_it_is_added) {
  const std::vector<std::byte> bytes = some_bytes(100, 0);
  ImageWriter writer("");
  writer.add_block(bytes);
  writer.add_blob(bytes);
  writer.add_archive({0, {}, {}, false, {}});
  using Code = Error::Code;
  const auto refused = [&](const Tensor& tensor) { return refusal([&] { writer.add_tensor(tensor); }); };
  EXPECT_EQ(refused(bytes_tensor("zerocopy.a", 1, 0)), Code::reserved_name);
  EXPECT_EQ(refused(bytes_tensor("__metadata__", 1, 0)), Code::reserved_name);
  EXPECT_EQ(refused(bytes_tensor("a", 101, 0)), Code::out_of_bounds);
  EXPECT_EQ(refused(bytes_tensor("a", 100, 0, 1)), Code::out_of_bounds);
  EXPECT_EQ(refused(bytes_tensor("a", 0, 0, 101)), Code::out_of_bounds);
  EXPECT_EQ(refused({"a", "F32", {2, 2}, {24, 1}, 0, 0}), Code::out_of_bounds);
  EXPECT_EQ(refused({"a", "F32", {1ULL << 40U, 1ULL << 40U}, {0, 0}, 0, 0}), Code::too_large);
  EXPECT_EQ(refused({"a", "U8", {1ULL << 54U}, {0}, 0, 0}), Code::too_large);
  EXPECT_EQ(refused({"a", "F64", {1ULL << 52U}, {0}, 0, 0}), Code::too_large);
  EXPECT_EQ(refused({"a", "U8", std::vector<std::uint64_t>(65, 1), std::vector<std::uint64_t>(65, 1), 0, 0}),
            Code::too_large);
  EXPECT_EQ(refused(bytes_tensor("a", 1, 1)), Code::no_such_block);
  EXPECT_EQ(refused({"a", "F31", {1}, {1}, 0, 0}), Code::malformed_index);
  EXPECT_EQ(refused({"a", "U8", {1}, {}, 0, 0}), Code::malformed_index);
  EXPECT_EQ(refused(bytes_tensor("\xff", 1, 0)), Code::malformed_index);
  EXPECT_EQ(refused(bytes_tensor("a", 1, 0)), std::nullopt);
  EXPECT_EQ(refused(bytes_tensor("a", 1, 0)), Code::duplicate_name);
  const auto refused_root = [&](const Root& root, const std::vector<std::uint32_t>& host_blocks) {
    return refusal([&] { writer.add_root(root, host_blocks); });
  };
  EXPECT_EQ(refused_root({"r", 1, {}, {}, {}, {}, {}}, {}), Code::no_such_blob);
  EXPECT_EQ(refused_root({"r", 0, {1}, {}, {}, {}, {}}, {}), Code::no_such_block);
  EXPECT_EQ(refused_root({"r", 0, {}, {}, {1}, {}, {}}, {}), Code::no_such_block);
  EXPECT_EQ(refused_root({"r", 0, {}, {}, {}, {}, {}}, {1}), Code::no_such_block);
  EXPECT_EQ(refused_root({"r", 0, {}, 1, {}, {}, {}}, {}), Code::malformed_index);
  EXPECT_EQ(refused_root({"r", 0, {}, 0, {}, {}, {}}, {}), std::nullopt);
  EXPECT_EQ(refused_root({"r", 0, {}, 0, {}, {}, {}}, {}), Code::duplicate_name);
  const auto refused_archive = [&](const Archive& archive) { return refusal([&] { writer.add_archive(archive); }); };
  EXPECT_EQ(refused_archive({1, {}, {}, false, {}}), Code::no_such_blob);
  EXPECT_EQ(refused_archive({0, {1}, {1}, false, {}}), Code::no_such_block);
  EXPECT_EQ(refused_archive({0, {0}, {}, false, {}}), Code::malformed_index);
  EXPECT_EQ(refused_archive({0, {0}, {101}, false, {}}), Code::out_of_bounds);
  EXPECT_EQ(refused_archive({0, {}, {}, false, {{3, 0, {}}, {3, 0, {"a"}}}}), Code::malformed_index);
  const auto refused_program = [&](const Program& program) { return refusal([&] { writer.add_program(program); }); };
  EXPECT_EQ(refused_program({1, {}}), Code::no_such_blob);
  EXPECT_EQ(refused_program({0, {bytes_tensor("c", 101, 0)}}), Code::out_of_bounds);
  EXPECT_EQ(refused_program({0, {bytes_tensor("c", 1, 0), bytes_tensor("c", 1, 0)}}), Code::duplicate_name);
  EXPECT_EQ(refusal([&] { writer.add_metadata("zerocopy.version", "2"); }), Code::reserved_name);
  EXPECT_EQ(refusal([&] { writer.add_metadata("format", "tf"); }), Code::reserved_name);
  writer.add_metadata("a", "b");
  EXPECT_EQ(refusal([&] { writer.add_metadata("a", "b"); }), Code::duplicate_name);
  EXPECT_EQ(refusal([&] { writer.add_metadata("c", "\xff"); }), Code::malformed_index);
  const Folder folder;
  for (const unsigned threads : {0U, 65U}) {
    EXPECT_EQ(refusal([&] { writer.write(folder.file(), {threads, {}}); }), Code::bad_thread_count);
  }
  // Nothing of what was refused is there.
  writer.write(folder.file());
  const Image image = Image::open(folder.file());
  EXPECT_EQ(image.tensors().size() + image.roots().size() + image.archives().size() + image.programs().size(), 3U);
}

// Refuses one of the calls that make a file, and writes a little at a time.
class FailsOnce final : public ForwardingSystem {
 public:
  FailsOnce(std::size_t nth, int error, bool knows_unnamed) : nth_(nth), error_(error), knows_unnamed_(knows_unnamed) {}

  Result<FileDescriptor> create_unnamed(const std::string& directory) override {
    return knows_unnamed_ ? asked<FileDescriptor>([&] { return ForwardingSystem::create_unnamed(directory); })
                          : Result<FileDescriptor>{{}, EOPNOTSUPP};
  }
  Result<FileDescriptor> create(const std::string& path) override {
    return asked<FileDescriptor>([&] { return ForwardingSystem::create(path); });
  }
  Result<FileDescriptor> open(const std::string& path) override {
    return asked<FileDescriptor>([&] { return ForwardingSystem::open(path); });
  }
  Result<std::size_t> write_at(int descriptor, std::span<const std::span<const std::byte>> bytes,
                               std::uint64_t offset) override {
    constexpr std::size_t at_once = 400'000;
    const std::array little{bytes.front().first(std::min(bytes.front().size(), at_once))};
    return asked<std::size_t>([&] { return ForwardingSystem::write_at(descriptor, little, offset); });
  }
  int sync(int descriptor) override {
    return status_of([&] { return ForwardingSystem::sync(descriptor); });
  }
  int link(int descriptor, const std::string& path) override {
    return status_of([&] { return ForwardingSystem::link(descriptor, path); });
  }
  int rename(const std::string& from, const std::string& to) override {
    return status_of([&] { return ForwardingSystem::rename(from, to); });
  }
  int remove(const std::string& path) override {
    return status_of([&] { return ForwardingSystem::remove(path); });
  }

  [[nodiscard]] bool has_failed() const { return made_ > nth_; }

 private:
  bool fails() {
    const std::scoped_lock lock(mutex_);
    return made_++ == nth_;
  }

  template <typename T, typename Call>
  Result<T> asked(Call call) {
    return fails() ? Result<T>{T{}, error_} : call();
  }

  template <typename Call>
  int status_of(Call call) {
    return fails() ? error_ : call();
  }

  std::size_t nth_;
  int error_;
  bool knows_unnamed_;
  std::mutex mutex_;
  std::size_t made_ = 0;
};

TEST(ImageWriter, each_call_fails_once_and_the_file_is_whole_or_as_it_was) {
  constexpr int error = ENOSPC;
  const std::size_t descriptors = open_descriptors();
  std::set<bool> outcomes;
  for (const bool knows_unnamed : {true, false}) {
    for (const bool is_there : {true, false}) {
      bool fails = true;
      for (std::size_t nth = 0; fails; ++nth) {
        const Folder folder;
        if (is_there) {
          put(folder.file(), "before");
        }
        FailsOnce system(nth, error, knows_unnamed);
        const Content content(system);
        std::optional<Error> thrown;
        try {
          content.writer().write(folder.file(), {2, {}});
        } catch (const Error& refused) {
          thrown = refused;
        }
        fails = system.has_failed();
        const std::string what = "call " + std::to_string(nth);
        const bool is_whole = std::filesystem::exists(folder.file()) && content_of(folder.file()) != "before";
        outcomes.insert(is_whole);
        if (is_whole) {
          EXPECT_TRUE(Image::open(folder.file()).verify().empty()) << what;
        }
        if (thrown) {
          EXPECT_EQ(thrown->code(), Error::Code::system_call) << what;
          EXPECT_EQ(thrown->system_error(), error) << what;
          EXPECT_EQ(is_whole, std::string_view(thrown->what()).find("is in place") != std::string_view::npos) << what;
        } else {
          EXPECT_TRUE(is_whole) << what;
        }
        EXPECT_EQ(folder.size(), is_there || is_whole ? 1U : 0U) << what;
        EXPECT_EQ(open_descriptors(), descriptors) << what;
      }
    }
  }
  EXPECT_EQ(outcomes.size(), 2U);
}

TEST(ImageWriter, a_file_where_none_can_be_is_an_error_with_its_reason) {
  const Folder folder;
  const ImageWriter writer("");
  const auto reason = [&](const std::string& path) {
    try {
      writer.write(path);
    } catch (const Error& error) {
      return error.system_error();
    }
    return 0;
  };
  EXPECT_EQ(reason(folder.file("none/image")), ENOENT);
  put(folder.file("file"), "");
  EXPECT_EQ(reason(folder.file("file/image")), ENOTDIR);
  std::filesystem::create_directory(folder.file("folder"));
  EXPECT_EQ(reason(folder.file("folder")), EISDIR);
  EXPECT_EQ(folder.size(), 2U);
}

}  // namespace
}  // namespace zerocopy
