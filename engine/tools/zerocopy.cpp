// The command `zerocopy`: what is in an image file, and whether its bytes are those that were written.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "zerocopy/error.h"
#include "zerocopy/image.h"

namespace {

using Json = nlohmann::json;
using zerocopy::Block;
using zerocopy::Damage;
using zerocopy::Image;
using zerocopy::Tensor;

enum class ExitStatus : std::uint8_t { sound = 0, has_damage = 1, failed = 2 };

constexpr std::string_view kUsage =
    "Usage: zerocopy inspect FILE   what is in an image file\n"
    "       zerocopy verify FILE    whether its bytes are those that were written; exits with 1 if they are not\n";

constexpr unsigned kThreads = 2;

// Names come from the file: as JSON they cannot do anything to a terminal.
std::string printable(const std::string& name) { return Json(name).dump(-1, ' ', true); }

std::string in_bytes(std::uint64_t count) { return std::to_string(count) + " bytes"; }

void print_tensor(const Image& image, const Tensor& tensor) {
  const Block& block = image.blocks()[tensor.block];
  std::uint64_t nbytes = zerocopy::item_size(tensor.dtype).value_or(0);
  for (const std::uint64_t length : tensor.shape) {
    nbytes *= length;
  }
  std::cout << "  " << printable(tensor.name) << "  " << tensor.dtype << ' ' << Json(tensor.shape).dump() << "  "
            << in_bytes(nbytes);
  if (block.segment) {
    std::cout << "  at byte " << block.offset + tensor.offset << " of segment " << *block.segment;
  }
  std::cout << '\n';
}

void print_parts(std::string_view title, const Json& parts) {
  std::cout << '\n' << title << ": " << parts.size() << '\n';
  for (std::size_t number = 0; number < parts.size(); ++number) {
    std::cout << "  " << number << "  " << in_bytes(parts[number][1].get<std::uint64_t>()) << "  digest "
              << parts[number][2].get<std::string>() << '\n';
  }
}

void inspect(const Image& image) {
  // What is checked already is of the form that the format has.
  const Json index = Json::parse(image.index());
  std::cout << "image of version 1, " << in_bytes(image.file()->bytes().size()) << ", written by "
            << printable(image.producer()) << "\ndigest " << image.digest() << '\n';
  for (const auto& [key, value] : image.metadata()) {
    std::cout << "metadata " << printable(key) << ": " << printable(value) << '\n';
  }
  std::cout << "\ntensors: " << image.tensors().size() << '\n';
  for (const Tensor& tensor : image.tensors()) {
    print_tensor(image, tensor);
  }
  print_parts("segments", index["segments"]);
  print_parts("blobs", index["blobs"]);
  std::cout << "\nroots: " << image.roots().size() << '\n';
  for (const zerocopy::Root& root : image.roots()) {
    std::cout << "  " << printable(root.name) << "  segments " << Json(root.segments).dump()
              << ", of these for the host " << Json(root.host_segments).dump() << "; skeleton in blob " << root.skeleton
              << (root.archive ? "; TorchScript archive " + std::to_string(*root.archive) : "") << '\n';
  }
  std::cout << "\nTorchScript archives: " << image.archives().size() << '\n';
  for (const zerocopy::Archive& archive : image.archives()) {
    std::cout << "  " << archive.modules.size() << " modules with " << archive.blocks.size()
              << " storages; records in blob " << archive.records << '\n';
  }
  std::cout << "\nAOTInductor programs: " << image.programs().size() << '\n';
  for (const zerocopy::Program& program : image.programs()) {
    std::cout << "  " << program.constants.size() << " constants; package in blob " << program.package << '\n';
  }
}

ExitStatus verify(const Image& image) {
  const std::vector<Damage> damages = image.verify(kThreads);
  for (const Damage& damage : damages) {
    std::cout << (damage.part == Damage::Part::segment ? "segment " : "blob ") << damage.number
              << " is damaged: its digest is " << damage.found << " instead of " << damage.expected << '\n';
  }
  if (damages.empty()) {
    std::cout << "sound: " << image.segment_count() << " segments and " << image.blob_count()
              << " blobs are as they were written\n";
  }
  return damages.empty() ? ExitStatus::sound : ExitStatus::has_damage;
}

ExitStatus run(std::span<char*> arguments) {
  const std::string_view command = arguments.size() == 3 ? arguments[1] : "";
  if (command != "inspect" && command != "verify") {
    std::cerr << kUsage;
    return ExitStatus::failed;
  }
  const Image image = Image::open(arguments[2]);
  if (command == "verify") {
    return verify(image);
  }
  inspect(image);
  return ExitStatus::sound;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const ExitStatus status = run(std::span(arguments, static_cast<std::size_t>(count)));
    std::cout.flush();
    return static_cast<int>(std::cout.good() ? status : ExitStatus::failed);
  } catch (const std::exception& error) {
    std::cerr << "zerocopy: " << error.what() << '\n';
    return static_cast<int>(ExitStatus::failed);
  }
}
