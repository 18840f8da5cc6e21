// The engine's one door to GPUs: the CUDA driver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "device/cuda_api.h"
#include "system/file_descriptor.h"
#include "system/result.h"
#include "zerocopy/error.h"

namespace zerocopy {

template <typename T>
using DriverResult = Result<T, cuda::CUresult>;

// What a mapping of a device's memory may be used for by programs that run on the device.
enum class Access : std::uint8_t { read, read_write };

// Every demand on the CUDA driver that the engine has. The real one is libcuda.so.1; tests put another in its place.
// Each member is one call of the driver, named behind it, and reports failure by its CUresult.
//
// All members may be called from any thread. Those from granularity() on need a context of the device to be current in
// the calling thread. In a process that was forked after the driver was initialized, every member does nothing and
// returns CUresult::not_initialized: the driver does not work there, and what the process inherited is its parent's to
// give back. An implementation must outlive everything that was given it.
class Driver {
 public:
  Driver() = default;
  Driver(Driver&&) = delete;
  Driver& operator=(Driver&&) = delete;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  virtual ~Driver() = default;

  // The machine's driver. It is loaded by the first call that finds it, and lives until the process ends. Throws
  // Error::Code::no_device_driver when there is none, or one that is too old.
  static Driver& real();

  // The name that the driver has for a result, such as "CUDA_ERROR_OUT_OF_MEMORY" (cuGetErrorName); for results that it
  // does not know, "CUresult 12345".
  virtual std::string name_of(cuda::CUresult result) = 0;

  // To be called before anything below, as often as one likes (cuInit).
  virtual cuda::CUresult initialize() = 0;

  // The newest CUDA that the driver supports: 1000 * major + 10 * minor (cuDriverGetVersion).
  virtual DriverResult<int> version() = 0;

  // The devices of which this process sees any have the numbers below this (cuDeviceGetCount). Which device has which
  // number differs between processes (CUDA_VISIBLE_DEVICES).
  virtual DriverResult<int> device_count() = 0;

  virtual DriverResult<cuda::CUdevice> device(int number) = 0;         // cuDeviceGet
  virtual DriverResult<cuda::CUuuid> uuid(cuda::CUdevice device) = 0;  // cuDeviceGetUuid_v2
  virtual DriverResult<int> attribute(cuda::CUdevice device,
                                      cuda::CUdevice_attribute attribute) = 0;  // cuDeviceGetAttribute

  // The context that this process shares with whoever else uses the device in it, PyTorch for one. It lasts until it
  // was released as often as it was retained (cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRelease_v2).
  virtual DriverResult<cuda::CUcontext> retain_primary_context(cuda::CUdevice device) = 0;
  virtual cuda::CUresult release_primary_context(cuda::CUdevice device) = 0;

  // The calling thread's current context, and back to what was current before (cuCtxPushCurrent_v2,
  // cuCtxPopCurrent_v2).
  virtual cuda::CUresult push_context(cuda::CUcontext context) = 0;
  virtual cuda::CUresult pop_context() = 0;

  // Sizes and addresses of a device's shareable memory are multiples of this (cuMemGetAllocationGranularity).
  virtual DriverResult<std::size_t> granularity(cuda::CUdevice device) = 0;

  // Memory on a device, at no address, which can be exported (cuMemCreate).
  virtual DriverResult<cuda::CUmemGenericAllocationHandle> create_memory(cuda::CUdevice device, std::size_t size) = 0;

  // A descriptor that any process may import; it is closed by exec (cuMemExportToShareableHandle).
  virtual DriverResult<FileDescriptor> export_memory(cuda::CUmemGenericAllocationHandle memory) = 0;

  // The descriptor remains the caller's (cuMemImportFromShareableHandle).
  virtual DriverResult<cuda::CUmemGenericAllocationHandle> import_memory(int descriptor) = 0;

  // The memory is freed when no handle, no exported descriptor and no mapping of it is left (cuMemRelease).
  virtual cuda::CUresult release_memory(cuda::CUmemGenericAllocationHandle memory) = 0;

  // Addresses of the device, for memory to be mapped at (cuMemAddressReserve, cuMemAddressFree).
  virtual DriverResult<cuda::CUdeviceptr> reserve_addresses(std::size_t size) = 0;
  virtual cuda::CUresult free_addresses(cuda::CUdeviceptr address, std::size_t size) = 0;

  // Memory at reserved addresses, from its first byte on (cuMemMap, cuMemUnmap). Nothing may use it before
  // set_access().
  virtual cuda::CUresult map_memory(cuda::CUdeviceptr address, std::size_t size,
                                    cuda::CUmemGenericAllocationHandle memory) = 0;
  virtual cuda::CUresult unmap_memory(cuda::CUdeviceptr address, std::size_t size) = 0;

  // What a device may do with mapped memory (cuMemSetAccess).
  virtual cuda::CUresult set_access(cuda::CUdeviceptr address, std::size_t size, cuda::CUdevice device,
                                    Access access) = 0;

  // Keeps pages of this process in place for the device to read (cuMemHostRegister_v2 with
  // CU_MEMHOSTREGISTER_READ_ONLY, cuMemHostUnregister). The pages may be mapped for reading only.
  virtual cuda::CUresult register_host_memory(std::span<const std::byte> pages) = 0;
  virtual cuda::CUresult unregister_host_memory(const std::byte* pages) = 0;

  // Memory of this process that is kept in place (cuMemHostAlloc, cuMemFreeHost).
  virtual DriverResult<std::byte*> allocate_host_memory(std::size_t size) = 0;
  virtual cuda::CUresult free_host_memory(std::byte* memory) = 0;

  // Work for the device, done in the order in which it was given, beside that of other streams (cuStreamCreate with
  // CU_STREAM_NON_BLOCKING, cuStreamDestroy_v2).
  virtual DriverResult<cuda::CUstream> create_stream() = 0;
  virtual cuda::CUresult destroy_stream(cuda::CUstream stream) = 0;

  // Returns when all of a stream's work is done, or with the error of what failed (cuStreamSynchronize).
  virtual cuda::CUresult synchronize(cuda::CUstream stream) = 0;

  // Both may return before the bytes are copied, if those of this process are kept in place (cuMemcpyHtoDAsync_v2,
  // cuMemcpyDtoHAsync_v2).
  virtual cuda::CUresult copy_to_device(cuda::CUdeviceptr to, std::span<const std::byte> from,
                                        cuda::CUstream stream) = 0;
  virtual cuda::CUresult copy_to_host(std::span<std::byte> to, cuda::CUdeviceptr from, cuda::CUstream stream) = 0;

  // A place in a stream's work, which a thread can wait for without taking a processor (cuEventCreate with
  // CU_EVENT_BLOCKING_SYNC and CU_EVENT_DISABLE_TIMING, cuEventDestroy_v2).
  virtual DriverResult<cuda::CUevent> create_event() = 0;
  virtual cuda::CUresult destroy_event(cuda::CUevent event) = 0;

  // The event stands behind what the stream was given so far (cuEventRecord).
  virtual cuda::CUresult record(cuda::CUevent event, cuda::CUstream stream) = 0;

  // Returns at once when the event was never recorded (cuEventSynchronize).
  virtual cuda::CUresult wait_for(cuda::CUevent event) = 0;
};

// An Error::Code::device_call whose message is what was not done, and the result's name.
Error device_error(Driver& driver, const std::string& not_done, cuda::CUresult result);

}  // namespace zerocopy
