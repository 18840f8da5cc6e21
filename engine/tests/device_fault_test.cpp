// Every call to the CUDA driver fails once.
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "device/device_mapping.h"
#include "device/device_memory.h"
#include "device/host_registration.h"
#include "device/staged_upload.h"
#include "fake_driver.h"
#include "process_state.h"
#include "shared_file.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using cuda::CUresult;
using testing::FakeDriver;
using testing::has_pattern;
using testing::Mapped;
using testing::open_descriptors;
using testing::page_size;
using testing::SharedFile;

// Uploads pages in both ways, shares them, and reads them through what was shared. Whether they are the same.
bool share_and_read(FakeDriver& driver, std::span<const std::byte> pages) {
  const auto device = only_device(driver);
  const std::size_t half = pages.size() / 2;
  FileDescriptor shared;
  std::size_t size = 0;
  {
    const DeviceMemory memory = DeviceMemory::create(device, pages.size());
    const DeviceMapping mapping(memory, Access::read_write);
    StagedUpload upload(device, 2, page_size());
    upload.write(mapping, 0, pages.first(half));
    upload.finish();
    const HostRegistration registered(device, pages.last(half));
    Stream stream(device);
    stream.copy_to_device(mapping, half, pages.last(half));
    stream.synchronize();
    shared = memory.share();
    size = memory.size();
  }
  const DeviceMemory memory = DeviceMemory::import(device, shared.number(), size);
  const DeviceMapping mapping(memory, Access::read);
  std::vector<std::byte> read(pages.size());
  Stream stream(device);
  stream.copy_to_host(read, mapping, 0);
  stream.synchronize();
  return has_pattern(read, 0);
}

// Whether destructors make a call. They tell nobody when it is refused, and what the driver does not take back, it has.
bool is_giving_back(const std::string& call) {
  static const std::set<std::string> calls{"cuCtxPushCurrent",    "cuCtxPopCurrent",    "cuDevicePrimaryCtxRelease",
                                           "cuMemRelease",        "cuMemUnmap",         "cuMemAddressFree",
                                           "cuMemHostUnregister", "cuMemFreeHost",      "cuStreamDestroy",
                                           "cuEventDestroy",      "cuStreamSynchronize"};
  return calls.contains(call);
}

// Refuses one call, and returns its name; none when all calls were made.
std::optional<std::string> refuse(std::size_t nth, CUresult result, std::span<const std::byte> pages,
                                  std::set<std::string>& called) {
  FakeDriver driver;
  driver.refuse(nth, result);
  bool failed = false;
  try {
    EXPECT_TRUE(share_and_read(driver, pages));
  } catch (const Error& error) {
    failed = true;
    EXPECT_EQ(error.code(), Error::Code::device_call);
    EXPECT_EQ(error.system_error(), static_cast<int>(result));
    EXPECT_NE(std::string(error.what()).find(driver.name_of(result)), std::string::npos) << error.what();
  }
  std::optional<std::string> call = driver.refused();
  if (failed || !call) {
    EXPECT_EQ(driver.complaints(), "");
  } else {
    EXPECT_TRUE(is_giving_back(*call)) << "it was refused, and nobody was told";
  }
  if (failed) {
    EXPECT_TRUE(share_and_read(driver, pages)) << "what was refused once is refused for ever";
  }
  called = driver.calls();
  return call;
}

class EachDriverCall : public ::testing::TestWithParam<CUresult> {};

TEST_P(EachDriverCall, fails_once_and_is_an_error_that_leaves_nothing_behind) {
  const SharedFile file(8);
  const Mapped pages = file.map(PROT_READ);
  const std::size_t descriptors = open_descriptors();
  std::set<std::string> refused;
  std::set<std::string> called;
  std::optional<std::string> call = "none yet";
  for (std::size_t nth = 0; call; ++nth) {
    call = refuse(nth, GetParam(), pages.bytes(), called);
    ASSERT_FALSE(HasFailure()) << "call " << nth << ", " << call.value_or("none");
    refused.insert(call.value_or(""));
  }
  EXPECT_EQ(open_descriptors(), descriptors);
  called.insert("");
  EXPECT_EQ(refused, called);
}

INSTANTIATE_TEST_SUITE_P(of_the_cuda_driver, EachDriverCall,
                         ::testing::Values(CUresult::out_of_memory, CUresult::invalid_context, CUresult::unknown));

}  // namespace
}  // namespace zerocopy
