// One GPU, in this process.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "device/driver.h"

namespace zerocopy {

// Which device, whatever number a process has for it; of a MIG device, that of the instance.
struct DeviceUuid {
  std::array<std::byte, 16> bytes{};

  // NOLINTNEXTLINE(modernize-use-nullptr): what clang-tidy 14 makes of it.
  friend auto operator<=>(const DeviceUuid&, const DeviceUuid&) = default;
};

// In groups of 8, 4, 4, 4 and 12 hexadecimal digits.
std::string to_string(const DeviceUuid& uuid);

// Those that this process sees, in the order of their numbers. May be called from any thread. Throws
// Error::Code::device_call.
std::vector<DeviceUuid> visible_devices(Driver& driver);

// Holds a device's primary context, which PyTorch uses too, and lets it go exactly once. What is made on the device
// holds the Device, so that it goes last. May be used from any thread; `driver` must outlive it.
class Device {
 public:
  // Throws Error: no_such_device; unfit_device when the device's memory cannot be mapped by us or exported as a file
  // descriptor; device_call.
  Device(const DeviceUuid& uuid, Driver& driver);
  Device(Device&&) = delete;
  Device& operator=(Device&&) = delete;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  [[nodiscard]] const DeviceUuid& uuid() const noexcept { return uuid_; }
  [[nodiscard]] cuda::CUdevice number() const noexcept { return device_; }

  // What `call(driver)` gives while the device's context is current in this thread; what was current before is so again
  // afterwards. Throws Error::Code::device_call, whose message begins with `not_done`, when either is refused.
  template <typename Call>
  [[nodiscard]] auto ask(const std::string& not_done, Call call) const {
    const Current current(*this);
    check(not_done, current.result());
    return value_of(not_done, call(*driver_));
  }

  // The same for calls that give a CUresult alone.
  template <typename Call>
  void tell(const std::string& not_done, Call call) const {
    const Current current(*this);
    check(not_done, current.result());
    check(not_done, call(*driver_));
  }

  // The same for destructors: what the driver does not take back is left to it.
  template <typename Call>
  void give_back(Call call) const noexcept {
    const Current current(*this);
    if (current.result() == cuda::CUresult::success) {
      call(*driver_);
    }
  }

 private:
  // The context is the thread's current one for as long as this lives, if result() is success.
  class Current {
   public:
    explicit Current(const Device& device) : driver_(device.driver_), result_(driver_->push_context(device.context_)) {}
    Current(Current&&) = delete;
    Current& operator=(Current&&) = delete;
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current() {
      if (result_ == cuda::CUresult::success) {
        driver_->pop_context();
      }
    }

    [[nodiscard]] cuda::CUresult result() const noexcept { return result_; }

   private:
    Driver* driver_;
    cuda::CUresult result_;
  };

  void check(const std::string& not_done, cuda::CUresult result) const;

  template <typename T>
  [[nodiscard]] T value_of(const std::string& not_done, DriverResult<T> answer) const {
    check(not_done, answer.error);
    return std::move(answer.value);
  }

  DeviceUuid uuid_;
  Driver* driver_;
  cuda::CUdevice device_;
  cuda::CUcontext context_;
};

}  // namespace zerocopy
