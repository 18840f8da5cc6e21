// Models of an image file as libtorch has them, their weights where the file's pages are.
#pragma once

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>
#include <zerocopy/image.h>
#include <zerocopy/view.h>

#include <cstddef>
#include <memory>
#include <vector>

// Loads the outermost TorchScript modules of an archive. Their weights lie in a private window on the image's pages,
// which the modules' tensors keep: they may be written to, and no other process sees it. Throws zerocopy::Error if the
// archive is damaged, and c10::Error if libtorch cannot read it.
std::vector<torch::jit::Module> load_scripts(const zerocopy::Image& image, const zerocopy::Archive& archive);

// A program that AOTInductor compiled, run with its constants where the image's pages are. One run at a time.
class CompiledProgram {
 public:
  // Throws as load_scripts().
  CompiledProgram(const zerocopy::Image& image, const zerocopy::Program& program);

  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs) { return loader_->run(inputs); }

 private:
  zerocopy::View view_;  // The loader uses its bytes, and goes before it.
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};
