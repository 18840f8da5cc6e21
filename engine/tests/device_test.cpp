#include "device/device.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "attempt.h"
#include "device/device_memory.h"
#include "fake_driver.h"

namespace zerocopy {
namespace {

using testing::FakeDriver;
using testing::FakeGpu;
using testing::refusal;

TEST(Device, a_uuid_is_written_as_nvidia_smi_writes_it) {
  DeviceUuid uuid;
  for (std::size_t nth = 0; nth < uuid.bytes.size(); ++nth) {
    uuid.bytes.at(nth) = static_cast<std::byte>(nth * 0x11);
  }
  EXPECT_EQ(to_string(uuid), "00112233-4455-6677-8899-aabbccddeeff");
}

TEST(Device, a_device_is_found_by_its_uuid_whatever_its_number) {
  const FakeGpu first;
  const FakeGpu second;
  FakeDriver driver({first, second});
  FakeDriver of_another_process({second});
  EXPECT_EQ(visible_devices(driver), (std::vector{first.uuid, second.uuid}));
  EXPECT_EQ(Device(second.uuid, driver).number(), 1);
  EXPECT_EQ(Device(second.uuid, of_another_process).number(), 0);
  EXPECT_EQ(Device(second.uuid, driver).uuid(), second.uuid);
}

TEST(Device, a_device_that_this_process_does_not_see_is_an_error_that_names_those_it_sees) {
  const FakeGpu seen;
  const FakeGpu hidden;
  FakeDriver driver({seen});
  const Error error = refusal([&] { const Device device(hidden.uuid, driver); });
  EXPECT_EQ(error.code(), Error::Code::no_such_device);
  EXPECT_EQ(std::string(error.what()),
            "There is no device " + to_string(hidden.uuid) +
                " in this process; those that it sees (CUDA_VISIBLE_DEVICES): " + to_string(seen.uuid));
}

TEST(Device, a_driver_without_a_device_is_an_error) {
  FakeDriver driver(std::vector<FakeGpu>{});
  const Error error = refusal([&] { visible_devices(driver); });
  EXPECT_EQ(error.code(), Error::Code::device_call);
  EXPECT_EQ(error.system_error(), static_cast<int>(cuda::CUresult::no_device));
  EXPECT_STREQ(error.what(), "The CUDA driver cannot be used: CUDA_ERROR_NO_DEVICE");
}

TEST(Device, a_device_whose_memory_cannot_be_shared_is_refused) {
  const FakeGpu unmappable{.has_virtual_memory = false};
  const FakeGpu unshareable{.has_file_descriptors = false};
  FakeDriver driver({unmappable, unshareable});
  for (const FakeGpu& gpu : {unmappable, unshareable}) {
    const Error error = refusal([&] { const Device device(gpu.uuid, driver); });
    EXPECT_EQ(error.code(), Error::Code::unfit_device);
    EXPECT_NE(std::string(error.what()).find(to_string(gpu.uuid)), std::string::npos);
  }
  EXPECT_EQ(driver.complaints(), "");
}

TEST(Device, the_context_is_held_for_as_long_as_the_device) {
  FakeDriver driver;
  {
    const auto device = only_device(driver);
    const auto again = only_device(driver);
    EXPECT_EQ(driver.complaints(), "2 retained contexts held; ");
  }
  EXPECT_EQ(driver.complaints(), "");
}

TEST(Device, what_was_current_in_the_thread_is_so_again_after_a_call) {
  FakeDriver driver({FakeGpu{}, FakeGpu{}});
  const Device first(driver.gpus()[0].uuid, driver);
  const auto second = std::make_shared<const Device>(driver.gpus()[1].uuid, driver);
  first.tell("", [&](Driver& /*driver*/) {
    static_cast<void>(DeviceMemory::create(second, 1));
    EXPECT_NE(driver.complaints().find("1 threads with current contexts"), std::string::npos);
    return driver.granularity(0).error;
  });
  EXPECT_EQ(driver.complaints().find("current"), std::string::npos);
}

TEST(Device, a_refused_call_is_an_error_with_the_results_name_and_number) {
  FakeDriver driver;
  const auto device = only_device(driver);
  driver.refuse(1, cuda::CUresult::not_supported);  // 0 is making the context current.
  const Error error =
      refusal([&] { device->tell("It cannot be done", [](Driver& asked) { return asked.granularity(0).error; }); });
  EXPECT_EQ(error.code(), Error::Code::device_call);
  EXPECT_EQ(error.system_error(), 801);
  EXPECT_EQ(std::string(error.what()),
            "It cannot be done on the device " + to_string(device->uuid()) + ": CUDA_ERROR_NOT_SUPPORTED");
}

}  // namespace
}  // namespace zerocopy
