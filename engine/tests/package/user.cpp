// Writes an image, opens it, and writes to a private window on it. Has every public header.
#include <zerocopy/error.h>
#include <zerocopy/image.h>
#include <zerocopy/image_writer.h>
#include <zerocopy/safetensors.h>
#include <zerocopy/shared_file.h>
#include <zerocopy/view.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>

int main() {
  try {
    const std::array<std::byte, 4> weights{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
    zerocopy::ImageWriter writer("a user");
    writer.add_tensor({"weights", "U8", {2, 2}, {2, 1}, writer.add_block(weights), 0});
    writer.write("weights.safetensors");
    const zerocopy::Image image = zerocopy::Image::open("weights.safetensors");
    zerocopy::View view = image.view(std::array{std::uint32_t{0}});
    view.segment(0)[2] = std::byte{5};
    const auto file = zerocopy::SharedFile::open("weights.safetensors");
    const zerocopy::Checkpoint checkpoint = zerocopy::Checkpoint::open(file);
    const zerocopy::View window(std::array{checkpoint.files()[0].data}, file);
    const bool is_shared = view.copied_bytes() == 0 && window.copied_bytes() == 0;
    return is_shared && image.block(0)[2] == std::byte{3} ? 0 : 1;
  } catch (const std::exception& error) {
    std::fputs(error.what(), stderr);
    return 1;
  }
}
