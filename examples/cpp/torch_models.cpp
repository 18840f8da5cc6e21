#include "torch_models.h"

#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/storage_context.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

namespace {

// A window on the segments of some blocks, and where each block is in it.
class Blocks {
 public:
  Blocks(const zerocopy::Image& image, const std::vector<std::uint32_t>& blocks)
      : image_(image), segments_(segments_of(image, blocks)), view_(image.view(segments_)) {
    view_.prefault();
  }

  // The first bytes of a block; their place is in the window.
  std::span<std::byte> bytes(std::uint32_t number, std::uint64_t nbytes) const {
    const zerocopy::Block& block = image_.blocks()[number];
    if (!block.segment) {
      return {};
    }
    const auto place = std::ranges::lower_bound(segments_, *block.segment) - segments_.begin();
    return view_.segment(static_cast<std::size_t>(place)).subspan(block.offset, nbytes);
  }

  zerocopy::View take_view() && { return std::move(view_); }

 private:
  static std::vector<std::uint32_t> segments_of(const zerocopy::Image& image,
                                                const std::vector<std::uint32_t>& blocks) {
    std::vector<std::uint32_t> segments;
    for (const std::uint32_t block : blocks) {
      if (const auto& segment = image.blocks()[block].segment) {
        segments.push_back(*segment);
      }
    }
    std::ranges::sort(segments);
    segments.erase(std::ranges::unique(segments).begin(), segments.end());
    return segments;
  }

  zerocopy::Image image_;
  std::vector<std::uint32_t> segments_;  // Ascending.
  zerocopy::View view_;
};

// A storage that keeps what its bytes lie in.
c10::Storage storage_over(std::span<std::byte> bytes, std::shared_ptr<Blocks> owner) {
  auto* const held = new std::shared_ptr<Blocks>(std::move(owner));  // The DataPtr's, which deletes it.
  at::DataPtr data(
      bytes.data(), held, [](void* last) { delete static_cast<std::shared_ptr<Blocks>*>(last); }, at::kCPU);
  return {c10::Storage::use_byte_size_t(), bytes.size(), std::move(data), /*allocator=*/nullptr, /*resizable=*/false};
}

// The bytes of an archive, for libtorch to read. They are the image's, and outlive the reader.
class ArchiveBytes final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit ArchiveBytes(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] std::size_t size() const override { return bytes_.size(); }

  std::size_t read(std::uint64_t position, void* into, std::size_t count, const char* /*what*/) const override {
    const auto part = bytes_.subspan(std::min<std::size_t>(position, bytes_.size()));
    const std::size_t read = std::min(count, part.size());
    std::memcpy(into, part.data(), read);
    return read;
  }

 private:
  std::span<const std::byte> bytes_;
};

at::ScalarType dtype_of(const zerocopy::Tensor& tensor) {
  static const std::map<std::string, at::ScalarType> dtypes{
      {"BOOL", at::kBool}, {"U8", at::kByte},          {"I8", at::kChar},    {"I16", at::kShort},
      {"I32", at::kInt},   {"I64", at::kLong},         {"F16", at::kHalf},   {"BF16", at::kBFloat16},
      {"F32", at::kFloat}, {"C64", at::kComplexFloat}, {"F64", at::kDouble}, {"C128", at::kComplexDouble}};
  const auto found = dtypes.find(tensor.dtype);
  if (found == dtypes.end()) {
    throw std::runtime_error("the constant " + tensor.name + " has the dtype " + tensor.dtype);
  }
  return found->second;
}

std::vector<std::uint32_t> blocks_of(const zerocopy::Program& program) {
  std::vector<std::uint32_t> blocks;
  for (const zerocopy::Tensor& constant : program.constants) {
    blocks.push_back(constant.block);
  }
  return blocks;
}

// The loader reads packages from files only. It unpacks this one, and needs it no more then.
class PackageFile {
 public:
  explicit PackageFile(std::span<const std::byte> package) {
    std::string name = std::filesystem::temp_directory_path() / "package-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      throw std::runtime_error("no folder for a package can be made in " + name);
    }
    folder_ = name;
    std::ofstream(path(), std::ios::binary)
        .write(reinterpret_cast<const char*>(package.data()), static_cast<std::streamsize>(package.size()));
  }
  PackageFile(const PackageFile&) = delete;
  PackageFile& operator=(const PackageFile&) = delete;
  ~PackageFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  [[nodiscard]] std::string path() const { return folder_ / "model.pt2"; }

 private:
  std::filesystem::path folder_;
};

}  // namespace

std::vector<torch::jit::Module> load_scripts(const zerocopy::Image& image, const zerocopy::Archive& archive) {
  const auto blocks = std::make_shared<Blocks>(image, archive.blocks);
  // The importer takes the storages from here that the archive has by number only.
  const auto storages = std::make_shared<torch::jit::DeserializationStorageContext>();
  for (std::size_t number = 0; number < archive.blocks.size(); ++number) {
    storages->addStorage(std::to_string(number) + ".storage",
                         storage_over(blocks->bytes(archive.blocks[number], archive.sizes[number]), blocks));
  }
  const auto reader = std::make_shared<caffe2::serialize::PyTorchStreamReader>(
      std::make_shared<ArchiveBytes>(image.blob(archive.records)));
  // A module in a unit of its own, whose one attribute is the tuple of all outermost modules.
  const torch::jit::Module holder =
      torch::jit::import_ir_module(std::make_shared<torch::jit::CompilationUnit>(), reader, storages, at::kCPU, "0");
  std::vector<torch::jit::Module> modules;
  for (const at::IValue& module : holder.attr("modules").toTuple()->elements()) {
    modules.push_back(module.toModule());
  }
  return modules;
}

CompiledProgram::CompiledProgram(const zerocopy::Image& image, const zerocopy::Program& program)
    : view_(image.view({})) {
  Blocks blocks(image, blocks_of(program));
  const PackageFile package(image.blob(program.package));
  loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(package.path());
  std::unordered_map<std::string, at::Tensor> constants;
  for (const zerocopy::Tensor& constant : program.constants) {
    const std::uint64_t nbytes = image.blocks()[constant.block].nbytes;
    std::byte* const first = blocks.bytes(constant.block, nbytes).data();
    const std::vector<std::int64_t> shape(constant.shape.begin(), constant.shape.end());
    const std::vector<std::int64_t> strides(constant.strides.begin(), constant.strides.end());
    // The loader never lets go of a tensor that it uses in place; so this one owns nothing, and view_ the bytes.
    constants.emplace(constant.name, at::from_blob(first + constant.offset, shape, strides, dtype_of(constant)));
  }
  loader_->load_constants(constants, /*use_inactive=*/false, /*check_full_update=*/true, /*user_managed=*/true);
  view_ = std::move(blocks).take_view();
}
