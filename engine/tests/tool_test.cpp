// The command `zerocopy`, run as users run it.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "folder.h"
#include "zerocopy/image_writer.h"

namespace zerocopy {
namespace {

using testing::Folder;

struct Outcome {
  int status = -1;
  std::string output;
};

Outcome run(const std::string& arguments, const std::string& redirection) {
  const std::string command = std::string(ZEROCOPY_TOOL) + " " + arguments + " " + redirection;
  // A shell, as users have one. NOLINTNEXTLINE(bugprone-command-processor)
  std::FILE* const pipe = ::popen(command.c_str(), "r");
  Outcome outcome;
  std::array<char, 4096> part{};
  for (std::size_t count = 1; count != 0;) {
    count = std::fread(part.data(), 1, part.size(), pipe);
    outcome.output.append(part.data(), count);
  }
  outcome.status = WEXITSTATUS(::pclose(pipe));
  return outcome;
}

Outcome run(const std::string& arguments) { return run(arguments, "2>/dev/null"); }
Outcome errors_of(const std::string& arguments) { return run(arguments, "2>&1 >/dev/null"); }

class Tool : public ::testing::Test {
 protected:
  Tool() {
    const std::vector<std::byte> weights(100'000, std::byte{7});
    ImageWriter writer("a test");
    writer.add_tensor({"layer\x1b[31m.weight", "F32", {250, 100}, {100, 1}, writer.add_block(weights), 0});
    writer.add_root({"model", writer.add_blob(weights), {}, {}, {0}, {}, {}}, {});
    writer.add_metadata("author", "somebody");
    digest_ = writer.write(file());
  }

  [[nodiscard]] std::string file() const { return folder_.file("image"); }
  [[nodiscard]] const std::string& digest() const { return digest_; }

  void damage(std::size_t offset) const {
    std::fstream stream(file(), std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream.put('!');
  }

 private:
  Folder folder_;
  std::string digest_;
};

TEST_F(Tool, inspect_shows_tensors_segments_roots_and_digests) {
  const Outcome outcome = run("inspect " + file());
  EXPECT_EQ(outcome.status, 0);
  for (const std::string& part :
       {digest(), std::string(R"("a test")"), std::string(R"("author": "somebody")"),
        std::string(R"("layer\u001b[31m.weight"  F32 [250,100]  100000 bytes  at byte 0 of segment 0)"),
        std::string("0  102400 bytes  digest "), std::string(R"("model"  segments [0])")}) {
    EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
  }
}

TEST_F(Tool, verify_says_that_a_sound_file_is_sound) {
  const Outcome outcome = run("verify " + file());
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "sound: 1 segments and 1 blobs are as they were written\n");
}

TEST_F(Tool, verify_names_what_is_damaged_and_exits_with_1) {
  damage(4096 + 50'000);
  damage(4096 + 150'000);
  const Outcome outcome = run("verify " + file());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.output.find("segment 0 is damaged"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("blob 0 is damaged"), std::string::npos) << outcome.output;
}

TEST_F(Tool, what_cannot_be_opened_is_an_error_and_exits_with_2) {
  std::filesystem::resize_file(file(), 5000);
  for (const std::string& arguments : {"verify " + file(), "inspect " + file(), std::string("inspect /none"),
                                       std::string("inspect"), std::string("show ") + file()}) {
    const Outcome outcome = errors_of(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_FALSE(outcome.output.empty()) << arguments;
    EXPECT_TRUE(run(arguments).output.empty()) << arguments;
  }
}

}  // namespace
}  // namespace zerocopy
