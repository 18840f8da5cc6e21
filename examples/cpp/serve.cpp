// Processes serve one model, from one copy of its weights:
//   serve PROCESSES FILE DTYPE LENGTH...      e.g.: serve 4 bert.safetensors long 1 128
// FILE is an image file with TorchScript modules or AOTInductor programs; or, to compare, what torch::jit::save wrote.
// Each process loads the model, runs it on a tensor of ones of this dtype and shape, and prints how long loading took,
// how much memory of its own it took, and the sum of the magnitudes of its outputs.
#include <ATen/Parallel.h>
#include <sys/wait.h>
#include <torch/script.h>
#include <unistd.h>
#include <zerocopy/error.h>
#include <zerocopy/image.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "torch_models.h"

namespace {

using Model = std::function<std::vector<at::IValue>(const at::Tensor&)>;

// The kibibytes that this process shares with nobody and that are no file's: private copies of pages, and the heap.
std::int64_t private_kib() {
  std::ifstream rollup("/proc/self/smaps_rollup");
  for (std::string line; std::getline(rollup, line);) {
    if (line.starts_with("Private_Dirty:")) {
      return std::stoll(line.substr(line.find(':') + 1));
    }
  }
  throw std::runtime_error("the kernel does not tell how much memory is private");
}

Model of_module(torch::jit::Module module) {
  module.eval();
  return [module](const at::Tensor& input) mutable { return std::vector{module.forward({input})}; };
}

// The first model of an image.
Model load(const zerocopy::Image& image) {
  if (!image.archives().empty()) {
    return of_module(load_scripts(image, image.archives().front()).at(0));
  }
  if (!image.programs().empty()) {
    const auto program = std::make_shared<CompiledProgram>(image, image.programs().front());
    return [program](const at::Tensor& input) {
      const std::vector<at::Tensor> outputs = program->run({input});
      return std::vector<at::IValue>(outputs.begin(), outputs.end());
    };
  }
  throw std::runtime_error("the image has neither TorchScript modules nor AOTInductor programs");
}

// The sum of the magnitudes of all elements of all tensors in a value.
double sum_of(const at::IValue& value) {
  double sum = 0;
  if (value.isTensor()) {
    sum = value.toTensor().to(at::kDouble).abs().sum().item<double>();
  } else if (value.isTuple()) {
    for (const at::IValue& element : value.toTuple()->elements()) {
      sum += sum_of(element);
    }
  } else if (value.isList()) {
    for (const at::IValue& element : value.toListRef()) {
      sum += sum_of(element);
    }
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      sum += sum_of(entry.value());
    }
  }
  return sum;
}

void serve(const std::function<Model()>& load_model, const at::Tensor& input) {
  const c10::InferenceMode inference;
  at::set_num_threads(1);
  const std::int64_t before = private_kib();
  const auto start = std::chrono::steady_clock::now();
  const Model model = load_model();
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  const std::int64_t own = private_kib() - before;
  double sum = 0;
  for (const at::IValue& output : model(input)) {
    sum += sum_of(output);
  }
  std::ostringstream line;
  line.precision(9);
  line << "process " << ::getpid() << ": loaded in " << took.count() << " ms, " << own << " KiB private, sum " << sum
       << '\n';
  std::cout << line.str() << std::flush;
}

// Whether all of them ended well.
bool in_processes(int count, const std::function<void()>& work) {
  for (int nth = 0; nth < count; ++nth) {
    if (::fork() == 0) {
      try {
        work();
      } catch (const std::exception& error) {
        std::cerr << "serve: " << error.what() << '\n';
        std::_Exit(EXIT_FAILURE);
      }
      std::_Exit(EXIT_SUCCESS);
    }
  }
  bool well = true;
  for (int status = 0; ::wait(&status) != -1;) {
    well = well && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
  }
  return well;
}

at::ScalarType dtype_of(const std::string& name) {
  if (name == "long") {
    return at::kLong;
  }
  if (name == "float") {
    return at::kFloat;
  }
  throw std::runtime_error("the dtype must be long or float, not " + name);
}

// None: the file is no image.
std::optional<zerocopy::Image> open_image(const std::string& path) {
  try {
    return zerocopy::Image::open(path);
  } catch (const zerocopy::Error& error) {
    if (error.code() != zerocopy::Error::Code::not_an_image) {
      throw;
    }
    return std::nullopt;
  }
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) {
    std::cerr << "Usage: serve PROCESSES FILE long|float LENGTH...\n";
    return EXIT_FAILURE;
  }
  const int processes = std::stoi(arguments[0]);
  const std::string& path = arguments[1];
  const at::ScalarType dtype = dtype_of(arguments[2]);
  std::vector<std::int64_t> shape;
  for (std::size_t nth = 3; nth < arguments.size(); ++nth) {
    shape.push_back(std::stoll(arguments[nth]));
  }
  // Checked once, before the processes begin; each maps the same pages.
  const std::optional<zerocopy::Image> image = open_image(path);
  const auto load_model = [&] { return image ? load(*image) : of_module(torch::jit::load(path)); };
  const bool well = in_processes(processes, [&] { serve(load_model, at::ones(shape, dtype)); });
  return well ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run({arguments + 1, arguments + count});
  } catch (const std::exception& error) {
    std::cerr << "serve: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
