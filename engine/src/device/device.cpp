#include "device/device.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string_view>

#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using cuda::CUdevice;
using cuda::CUresult;

template <typename T>
T value_of(Driver& driver, const std::string& not_done, const DriverResult<T>& result) {
  if (!result.ok()) {
    throw device_error(driver, not_done, result.error);
  }
  return result.value;
}

struct Visible {
  CUdevice device = 0;
  DeviceUuid uuid;
};

std::vector<Visible> visible(Driver& driver) {
  const std::string not_done = "The devices cannot be listed";
  if (const CUresult result = driver.initialize(); result != CUresult::success) {
    throw device_error(driver, "The CUDA driver cannot be used", result);
  }
  std::vector<Visible> found;
  const int count = value_of(driver, not_done, driver.device_count());
  for (int number = 0; number < count; ++number) {
    const CUdevice device = value_of(driver, not_done, driver.device(number));
    const cuda::CUuuid uuid = value_of(driver, not_done, driver.uuid(device));
    found.push_back({device, std::bit_cast<DeviceUuid>(uuid)});
  }
  return found;
}

std::string names_of(const std::vector<Visible>& devices) {
  std::string names;
  for (const Visible& seen : devices) {
    names += (names.empty() ? "" : ", ") + to_string(seen.uuid);
  }
  return names.empty() ? "none" : names;
}

CUdevice find(const DeviceUuid& uuid, Driver& driver) {
  const std::vector<Visible> devices = visible(driver);
  const auto found = std::ranges::find(devices, uuid, &Visible::uuid);
  if (found == devices.end()) {
    throw Error(Error::Code::no_such_device,
                "There is no device " + to_string(uuid) +
                    " in this process; those that it sees (CUDA_VISIBLE_DEVICES): " + names_of(devices));
  }
  return found->device;
}

void require(Driver& driver, CUdevice device, const DeviceUuid& uuid, cuda::CUdevice_attribute attribute,
             const char* lacking) {
  const int has =
      value_of(driver, "The device " + to_string(uuid) + " cannot be asked", driver.attribute(device, attribute));
  if (has == 0) {
    throw Error(Error::Code::unfit_device, "The memory of the device " + to_string(uuid) + " cannot be " + lacking);
  }
}

cuda::CUcontext retain(Driver& driver, CUdevice device, const DeviceUuid& uuid) {
  require(driver, device, uuid, cuda::CUdevice_attribute::virtual_memory_management,
          "mapped by the page (CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED is 0)");
  require(driver, device, uuid, cuda::CUdevice_attribute::posix_file_descriptor,
          "shared by file descriptors (CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED is 0)");
  return value_of(driver, "The device " + to_string(uuid) + " cannot be used", driver.retain_primary_context(device));
}

}  // namespace

std::string to_string(const DeviceUuid& uuid) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (std::size_t nth = 0; nth < uuid.bytes.size(); ++nth) {
    if (nth == 4 || nth == 6 || nth == 8 || nth == 10) {
      text += '-';
    }
    const auto byte = std::to_integer<unsigned>(uuid.bytes.at(nth));
    text += digits[byte >> 4U];
    text += digits[byte & 0xFU];
  }
  return text;
}

std::vector<DeviceUuid> visible_devices(Driver& driver) {
  std::vector<DeviceUuid> uuids;
  for (const Visible& seen : visible(driver)) {
    uuids.push_back(seen.uuid);
  }
  return uuids;
}

Device::Device(const DeviceUuid& uuid, Driver& driver)
    : uuid_(uuid), driver_(&driver), device_(find(uuid, driver)), context_(retain(driver, device_, uuid)) {}

Device::~Device() { driver_->release_primary_context(device_); }

void Device::check(const std::string& not_done, CUresult result) const {
  if (result != CUresult::success) {
    throw device_error(*driver_, not_done + " on the device " + to_string(uuid_), result);
  }
}

}  // namespace zerocopy
