#include "device/loaded_driver.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attempt.h"
#include "child_process.h"
#include "device/device_mapping.h"
#include "device/device_memory.h"
#include "device/host_registration.h"
#include "device/staged_upload.h"
#include "libcuda_stub.h"
#include "process_state.h"
#include "shared_file.h"

namespace zerocopy {
namespace {

using testing::has_pattern;
using testing::kStubGpu;
using testing::open_descriptors;
using testing::problem_in_child;
using testing::refusal;
using testing::SharedFile;

void* function_of_stub(const char* name) {
  static void* const library = ::dlopen(ZEROCOPY_LIBCUDA_STUB, RTLD_NOW | RTLD_LOCAL);
  return ::dlsym(library, name);
}

std::string complaints() {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): as dlsym() has it.
  return reinterpret_cast<testing::StubComplaints>(function_of_stub(testing::kStubComplaints))();
}

// All that the engine looks for, in its order.
std::vector<std::string> names() {
  std::vector<std::string> names;
  make_driver([&](const char* name) {
    names.emplace_back(name);
    return function_of_stub(name);
  });
  return names;
}

TEST(LoadedDriver, a_machine_without_the_driver_is_told_so) {
  const Error error = refusal([] { load_driver("libcuda-that-is-not-there.so.1"); });
  EXPECT_EQ(error.code(), Error::Code::no_device_driver);
  EXPECT_EQ(std::string(error.what()),
            "The CUDA driver cannot be loaded (libcuda-that-is-not-there.so.1: cannot open shared object file: No such "
            "file or directory): install NVIDIA's driver, or give the container access to the GPU");
}

TEST(LoadedDriver, the_real_driver_is_there_or_its_absence_is_an_error_each_time) {
  for (int times = 0; times < 2; ++times) {
    try {
      EXPECT_GE(Driver::real().version().value, 11040);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Error::Code::no_device_driver);
      EXPECT_NE(std::string(error.what()).find("libcuda.so.1"), std::string::npos);
    }
  }
}

TEST(LoadedDriver, a_library_that_is_not_the_driver_is_refused) {
  EXPECT_EQ(refusal([] { load_driver("libc.so.6"); }).code(), Error::Code::no_device_driver);
}

TEST(LoadedDriver, a_driver_that_lacks_any_one_function_is_refused_by_its_name) {
  const std::vector<std::string> all = names();
  EXPECT_EQ(all.size(), 34U);
  for (const std::string& lacking : all) {
    const Error error = refusal(
        [&] { make_driver([&](const char* name) { return lacking == name ? nullptr : function_of_stub(name); }); });
    EXPECT_EQ(error.code(), Error::Code::no_device_driver);
    EXPECT_NE(std::string(error.what()).find("The CUDA driver has no function " + lacking + ": it is older than"),
              std::string::npos)
        << error.what();
  }
}

TEST(LoadedDriver, bytes_go_to_a_device_and_back_through_the_exported_functions) {
  const SharedFile file(700);
  const testing::Mapped source = file.map(PROT_READ);
  const std::size_t descriptors = open_descriptors();
  const std::unique_ptr<Driver> driver = load_driver(ZEROCOPY_LIBCUDA_STUB);
  EXPECT_EQ(driver->version().value, 13000);
  ASSERT_EQ(visible_devices(*driver), std::vector{kStubGpu});
  {
    const auto device = std::make_shared<const Device>(kStubGpu, *driver);
    FileDescriptor shared;
    std::size_t size = 0;
    {
      const DeviceMemory memory = DeviceMemory::create(device, source.bytes().size());
      size = memory.size();
      shared = memory.share();
      EXPECT_EQ(::fcntl(shared.number(), F_GETFD), FD_CLOEXEC);
      const DeviceMapping mapping(memory, Access::read_write);
      StagedUpload upload(device, 2, std::size_t{1} << 20U);
      const std::size_t half = source.bytes().size() / 2;
      upload.write(mapping, 0, source.bytes().first(half));
      upload.finish();
      const HostRegistration registered(device, source.bytes().subspan(half));
      Stream stream(device);
      stream.copy_to_device(mapping, half, source.bytes().subspan(half));
      stream.synchronize();
    }
    const DeviceMemory memory = DeviceMemory::import(device, shared.number(), size);
    const DeviceMapping mapping(memory, Access::read);
    std::vector<std::byte> read(source.bytes().size());
    Stream stream(device);
    stream.copy_to_host(read, mapping, 0);
    stream.synchronize();
    EXPECT_TRUE(has_pattern(read, 0));
  }
  EXPECT_EQ(complaints(), "");
  EXPECT_EQ(open_descriptors(), descriptors);
}

TEST(LoadedDriver, results_have_the_names_of_the_driver) {
  const std::unique_ptr<Driver> driver = load_driver(ZEROCOPY_LIBCUDA_STUB);
  EXPECT_EQ(driver->name_of(cuda::CUresult::out_of_memory), "CUDA_ERROR_OUT_OF_MEMORY");
  EXPECT_EQ(driver->name_of(cuda::CUresult{12345}), "CUresult 12345");
}

TEST(LoadedDriver, a_forked_child_asks_nothing_of_its_parents_driver) {
  const std::unique_ptr<Driver> driver = load_driver(ZEROCOPY_LIBCUDA_STUB);
  {
    auto device = std::make_shared<const Device>(kStubGpu, *driver);
    std::optional<DeviceMemory> memory(DeviceMemory::create(device, 1));
    std::optional<DeviceMapping> mapping(std::in_place, *memory, Access::read_write);
    EXPECT_EQ(problem_in_child([&]() -> std::string {
                if (driver->initialize() != cuda::CUresult::not_initialized) {
                  return "the driver was initialized a second time";
                }
                if (refusal([&] { DeviceMemory::create(device, 1); }).code() != Error::Code::device_call) {
                  return "memory was allocated";
                }
                const std::string before = complaints();
                mapping.reset();
                memory.reset();
                device.reset();
                return complaints() == before ? "" : "something of the parent's was given back";
              }),
              "");
  }
  EXPECT_EQ(complaints(), "");
}

}  // namespace
}  // namespace zerocopy
