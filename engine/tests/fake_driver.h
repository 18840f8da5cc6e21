// A CUDA driver without a GPU.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "device/driver.h"

namespace zerocopy::testing {

struct FakeGpu {
  DeviceUuid uuid = new_uuid();
  std::size_t capacity = SIZE_MAX;  // Bytes.
  bool has_virtual_memory = true;
  bool has_file_descriptors = true;
  bool registers_read_only = true;

  // One that no other fake GPU on this machine has.
  static DeviceUuid new_uuid();
};

// Keeps what NVIDIA's reference promises of the calls that the engine makes, with memory of the operating system in the
// place of a GPU's:
//   * A piece of device memory is a file without a name, and a descriptor on it is what is exported. So it lives, in
//     whatever process, while a handle, a descriptor or a mapping is left; used() asks the kernel.
//   * Device addresses are addresses of this process, and what programs on the device may do there is what this process
//     may do: nothing before set_access(), and a write through a mapping for reading only is a fault.
//   * Sizes and addresses must be whole granules; handles and addresses must be known, and are given back once; the
//     calls from granularity() on need a current context, and all need initialize() first, but in a forked child
//     nothing works.
//   * Copies from or to pinned or registered memory are made at the last moment that the reference allows: when
//   somebody
//     waits for them. Whoever takes their memory away earlier misuses the driver.
//
// Several objects, in this or other processes, that are given the same GPU (by UUID) share its memory, as the drivers
// of several processes do.
class FakeDriver : public Driver {
 public:
  explicit FakeDriver(std::vector<FakeGpu> gpus = {FakeGpu{}});
  FakeDriver(FakeDriver&&) = delete;
  FakeDriver& operator=(FakeDriver&&) = delete;
  FakeDriver(const FakeDriver&) = delete;
  FakeDriver& operator=(const FakeDriver&) = delete;
  ~FakeDriver() override;

  static constexpr std::size_t kGranularity = std::size_t{2} << 20U;

  // What was taken and not given back, and what was done that the reference forbids. Empty: neither.
  [[nodiscard]] std::string complaints() const;

  // Bytes of a GPU's memory that exist, whichever processes of this process's group keep them.
  [[nodiscard]] static std::size_t used(const DeviceUuid& uuid);

  // The nth call from now on, counted from 0, is refused with `result`, and not made.
  void refuse(std::size_t nth, cuda::CUresult result);

  // The call that was refused, by its name in the reference; none if there were not so many.
  [[nodiscard]] std::optional<std::string> refused() const;

  // The names of all calls that were made.
  [[nodiscard]] std::set<std::string> calls() const;

  [[nodiscard]] const std::vector<FakeGpu>& gpus() const;

  std::string name_of(cuda::CUresult result) override;
  cuda::CUresult initialize() override;
  DriverResult<int> version() override;
  DriverResult<int> device_count() override;
  DriverResult<cuda::CUdevice> device(int number) override;
  DriverResult<cuda::CUuuid> uuid(cuda::CUdevice device) override;
  DriverResult<int> attribute(cuda::CUdevice device, cuda::CUdevice_attribute attribute) override;
  DriverResult<cuda::CUcontext> retain_primary_context(cuda::CUdevice device) override;
  cuda::CUresult release_primary_context(cuda::CUdevice device) override;
  cuda::CUresult push_context(cuda::CUcontext context) override;
  cuda::CUresult pop_context() override;
  DriverResult<std::size_t> granularity(cuda::CUdevice device) override;
  DriverResult<cuda::CUmemGenericAllocationHandle> create_memory(cuda::CUdevice device, std::size_t size) override;
  DriverResult<FileDescriptor> export_memory(cuda::CUmemGenericAllocationHandle memory) override;
  DriverResult<cuda::CUmemGenericAllocationHandle> import_memory(int descriptor) override;
  cuda::CUresult release_memory(cuda::CUmemGenericAllocationHandle memory) override;
  DriverResult<cuda::CUdeviceptr> reserve_addresses(std::size_t size) override;
  cuda::CUresult free_addresses(cuda::CUdeviceptr address, std::size_t size) override;
  cuda::CUresult map_memory(cuda::CUdeviceptr address, std::size_t size,
                            cuda::CUmemGenericAllocationHandle memory) override;
  cuda::CUresult unmap_memory(cuda::CUdeviceptr address, std::size_t size) override;
  cuda::CUresult set_access(cuda::CUdeviceptr address, std::size_t size, cuda::CUdevice device, Access access) override;
  cuda::CUresult register_host_memory(std::span<const std::byte> pages) override;
  cuda::CUresult unregister_host_memory(const std::byte* pages) override;
  DriverResult<std::byte*> allocate_host_memory(std::size_t size) override;
  cuda::CUresult free_host_memory(std::byte* memory) override;
  DriverResult<cuda::CUstream> create_stream() override;
  cuda::CUresult destroy_stream(cuda::CUstream stream) override;
  cuda::CUresult synchronize(cuda::CUstream stream) override;
  cuda::CUresult copy_to_device(cuda::CUdeviceptr to, std::span<const std::byte> from, cuda::CUstream stream) override;
  cuda::CUresult copy_to_host(std::span<std::byte> to, cuda::CUdeviceptr from, cuda::CUstream stream) override;
  DriverResult<cuda::CUevent> create_event() override;
  cuda::CUresult destroy_event(cuda::CUevent event) override;
  cuda::CUresult record(cuda::CUevent event, cuda::CUstream stream) override;
  cuda::CUresult wait_for(cuda::CUevent event) override;

 private:
  struct State;

  std::unique_ptr<State> state_;
};

// The only GPU of a fake driver.
inline std::shared_ptr<const Device> only_device(FakeDriver& driver) {
  return std::make_shared<const Device>(driver.gpus().front().uuid, driver);
}

// What a program on a fake GPU has at an address of the device.
inline std::span<std::byte> bytes_at(cuda::CUdeviceptr address, std::size_t length) {
  return {std::bit_cast<std::byte*>(address), length};
}

}  // namespace zerocopy::testing
