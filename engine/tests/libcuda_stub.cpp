// A shared library with the exported names and the calling conventions of libcuda.so.1, and a fake driver behind them.
#include "libcuda_stub.h"

#include <fcntl.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "device/cuda_api.h"
#include "fake_driver.h"

namespace {

using namespace zerocopy::cuda;
using zerocopy::Access;
using zerocopy::DriverResult;
using zerocopy::FileDescriptor;
using zerocopy::testing::FakeDriver;
using zerocopy::testing::FakeGpu;

FakeDriver& fake() {
  static FakeDriver driver({FakeGpu{.uuid = zerocopy::testing::kStubGpu}});
  return driver;
}

template <typename T>
CUresult give(T* where, const DriverResult<T>& result) {
  if (result.ok()) {
    *where = result.value;
  }
  return result.error;
}

bool is_shareable(const CUmemAllocationProp& properties) {
  return properties.type == CUmemAllocationType::pinned &&
         properties.requested_handle_types == CUmemAllocationHandleType::posix_file_descriptor &&
         properties.location.type == CUmemLocationType::device && properties.win32_handle_meta_data == nullptr &&
         properties.allocation_flags == std::array<std::byte, 8>{};
}

}  // namespace

#define ZEROCOPY_EXPORT extern "C" __attribute__((visibility("default")))

ZEROCOPY_EXPORT const char* zerocopy_stub_complaints() {
  static thread_local std::string complaints;
  complaints = fake().complaints();
  return complaints.c_str();
}

ZEROCOPY_EXPORT CUresult cuGetErrorName(CUresult error, const char** name) {
  static thread_local std::string kept;
  kept = fake().name_of(error);
  *name = kept.starts_with("CUDA_") ? kept.c_str() : nullptr;
  return *name == nullptr ? CUresult::invalid_value : CUresult::success;
}
ZEROCOPY_EXPORT CUresult cuInit(unsigned flags) { return flags == 0 ? fake().initialize() : CUresult::invalid_value; }
ZEROCOPY_EXPORT CUresult cuDriverGetVersion(int* version) { return give(version, fake().version()); }
ZEROCOPY_EXPORT CUresult cuDeviceGetCount(int* count) { return give(count, fake().device_count()); }
ZEROCOPY_EXPORT CUresult cuDeviceGet(CUdevice* device, int number) { return give(device, fake().device(number)); }
ZEROCOPY_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) { return give(uuid, fake().uuid(device)); }
ZEROCOPY_EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return give(value, fake().attribute(device, attribute));
}
ZEROCOPY_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return give(context, fake().retain_primary_context(device));
}
ZEROCOPY_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return fake().release_primary_context(device);
}
ZEROCOPY_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) { return fake().push_context(context); }
ZEROCOPY_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  *context = nullptr;
  return fake().pop_context();
}
ZEROCOPY_EXPORT CUresult cuMemGetAllocationGranularity(std::size_t* granularity, const CUmemAllocationProp* properties,
                                                       CUmemAllocationGranularity_flags option) {
  if (!is_shareable(*properties) || option != CUmemAllocationGranularity_flags::minimum) {
    return CUresult::invalid_value;
  }
  return give(granularity, fake().granularity(properties->location.id));
}
ZEROCOPY_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, std::size_t size,
                                     const CUmemAllocationProp* properties, unsigned long long flags) {
  if (!is_shareable(*properties) || flags != 0) {
    return CUresult::invalid_value;
  }
  return give(handle, fake().create_memory(properties->location.id, size));
}
ZEROCOPY_EXPORT CUresult cuMemExportToShareableHandle(void* where, CUmemGenericAllocationHandle handle,
                                                      CUmemAllocationHandleType type, unsigned long long flags) {
  if (type != CUmemAllocationHandleType::posix_file_descriptor || flags != 0) {
    return CUresult::invalid_value;
  }
  const DriverResult<FileDescriptor> exported = fake().export_memory(handle);
  if (exported.ok()) {
    // The reference does not say whether exec closes it: this one it does not, so that the engine has to see to that.
    const int number = ::fcntl(exported.value.number(), F_DUPFD, 0);
    std::memcpy(where, &number, sizeof number);
  }
  return exported.error;
}
ZEROCOPY_EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* descriptor,
                                                        CUmemAllocationHandleType type) {
  if (type != CUmemAllocationHandleType::posix_file_descriptor) {
    return CUresult::invalid_value;
  }
  return give(handle, fake().import_memory(static_cast<int>(std::bit_cast<std::uintptr_t>(descriptor))));
}
ZEROCOPY_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) { return fake().release_memory(handle); }
ZEROCOPY_EXPORT CUresult cuMemAddressReserve(CUdeviceptr* address, std::size_t size, std::size_t alignment,
                                             CUdeviceptr wanted, unsigned long long flags) {
  if (alignment != 0 || wanted != 0 || flags != 0) {
    return CUresult::invalid_value;
  }
  return give(address, fake().reserve_addresses(size));
}
ZEROCOPY_EXPORT CUresult cuMemAddressFree(CUdeviceptr address, std::size_t size) {
  return fake().free_addresses(address, size);
}
ZEROCOPY_EXPORT CUresult cuMemMap(CUdeviceptr address, std::size_t size, std::size_t offset,
                                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  return offset == 0 && flags == 0 ? fake().map_memory(address, size, handle) : CUresult::invalid_value;
}
ZEROCOPY_EXPORT CUresult cuMemUnmap(CUdeviceptr address, std::size_t size) {
  return fake().unmap_memory(address, size);
}
ZEROCOPY_EXPORT CUresult cuMemSetAccess(CUdeviceptr address, std::size_t size, const CUmemAccessDesc* description,
                                        std::size_t count) {
  if (count != 1 || description->location.type != CUmemLocationType::device) {
    return CUresult::invalid_value;
  }
  const Access access = description->flags == CUmemAccess_flags::read ? Access::read : Access::read_write;
  return fake().set_access(address, size, description->location.id, access);
}
ZEROCOPY_EXPORT CUresult cuMemHostRegister_v2(void* address, std::size_t size, unsigned flags) {
  if (flags != kMemHostRegisterReadOnly) {
    return CUresult::invalid_value;
  }
  return fake().register_host_memory({static_cast<const std::byte*>(address), size});
}
ZEROCOPY_EXPORT CUresult cuMemHostUnregister(void* address) {
  return fake().unregister_host_memory(static_cast<const std::byte*>(address));
}
ZEROCOPY_EXPORT CUresult cuMemHostAlloc(void** address, std::size_t size, unsigned flags) {
  const DriverResult<std::byte*> memory = fake().allocate_host_memory(size);
  *address = memory.value;
  return flags == 0 ? memory.error : CUresult::invalid_value;
}
ZEROCOPY_EXPORT CUresult cuMemFreeHost(void* address) {
  return fake().free_host_memory(static_cast<std::byte*>(address));
}
ZEROCOPY_EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return flags == kStreamNonBlocking ? give(stream, fake().create_stream()) : CUresult::invalid_value;
}
ZEROCOPY_EXPORT CUresult cuStreamDestroy_v2(CUstream stream) { return fake().destroy_stream(stream); }
ZEROCOPY_EXPORT CUresult cuStreamSynchronize(CUstream stream) { return fake().synchronize(stream); }
ZEROCOPY_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t size, CUstream stream) {
  return fake().copy_to_device(to, {static_cast<const std::byte*>(from), size}, stream);
}
ZEROCOPY_EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t size, CUstream stream) {
  return fake().copy_to_host({static_cast<std::byte*>(to), size}, from, stream);
}
ZEROCOPY_EXPORT CUresult cuEventCreate(CUevent* event, unsigned flags) {
  return flags == (kEventBlockingSync | kEventDisableTiming) ? give(event, fake().create_event())
                                                             : CUresult::invalid_value;
}
ZEROCOPY_EXPORT CUresult cuEventDestroy_v2(CUevent event) { return fake().destroy_event(event); }
ZEROCOPY_EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) { return fake().record(event, stream); }
ZEROCOPY_EXPORT CUresult cuEventSynchronize(CUevent event) { return fake().wait_for(event); }
