#include "device/loaded_driver.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <string>
#include <utility>

#include "device/cuda_api.h"
#include "system/immortal.h"
#include "zerocopy/error.h"

namespace zerocopy {
namespace {

using cuda::CUcontext;
using cuda::CUdevice;
using cuda::CUdeviceptr;
using cuda::CUevent;
using cuda::CUmemGenericAllocationHandle;
using cuda::CUresult;
using cuda::CUstream;

// One function of the driver, called by its object like any other.
template <typename... Arguments>
class Function {
 public:
  Function(const FindFunction& find, const char* name) : address_(as_function(find(name))) {
    if (address_ == nullptr) {
      throw Error(Error::Code::no_device_driver,
                  std::string("The CUDA driver has no function ") + name +
                      ": it is older than CUDA 11.4; install a newer one (`nvidia-smi` tells which CUDA it supports)");
    }
  }

  CUresult operator()(Arguments... arguments) const { return address_(arguments...); }

 private:
  using Address = CUresult (*)(Arguments...);

  static Address as_function(void* found) {
    return reinterpret_cast<Address>(found);  // NOLINT(cppcoreguidelines-pro-type-reinterpret-cast): as dlsym() has it.
  }

  Address address_;
};

// "CUDA Driver API" has each under its name without the version.
struct Functions {
  explicit Functions(FindFunction find_function) : find(std::move(find_function)) {}

  FindFunction find;
  Function<CUresult, const char**> get_error_name{find, "cuGetErrorName"};
  Function<unsigned> init{find, "cuInit"};
  Function<int*> driver_get_version{find, "cuDriverGetVersion"};
  Function<int*> device_get_count{find, "cuDeviceGetCount"};
  Function<CUdevice*, int> device_get{find, "cuDeviceGet"};
  Function<cuda::CUuuid*, CUdevice> device_get_uuid{find, "cuDeviceGetUuid_v2"};
  Function<int*, cuda::CUdevice_attribute, CUdevice> device_get_attribute{find, "cuDeviceGetAttribute"};
  Function<CUcontext*, CUdevice> primary_ctx_retain{find, "cuDevicePrimaryCtxRetain"};
  Function<CUdevice> primary_ctx_release{find, "cuDevicePrimaryCtxRelease_v2"};
  Function<CUcontext> ctx_push_current{find, "cuCtxPushCurrent_v2"};
  Function<CUcontext*> ctx_pop_current{find, "cuCtxPopCurrent_v2"};
  Function<std::size_t*, const cuda::CUmemAllocationProp*, cuda::CUmemAllocationGranularity_flags>
      mem_get_allocation_granularity{find, "cuMemGetAllocationGranularity"};
  Function<CUmemGenericAllocationHandle*, std::size_t, const cuda::CUmemAllocationProp*, unsigned long long> mem_create{
      find, "cuMemCreate"};
  Function<void*, CUmemGenericAllocationHandle, cuda::CUmemAllocationHandleType, unsigned long long>
      mem_export_to_shareable_handle{find, "cuMemExportToShareableHandle"};
  Function<CUmemGenericAllocationHandle*, void*, cuda::CUmemAllocationHandleType> mem_import_from_shareable_handle{
      find, "cuMemImportFromShareableHandle"};
  Function<CUmemGenericAllocationHandle> mem_release{find, "cuMemRelease"};
  Function<CUdeviceptr*, std::size_t, std::size_t, CUdeviceptr, unsigned long long> mem_address_reserve{
      find, "cuMemAddressReserve"};
  Function<CUdeviceptr, std::size_t> mem_address_free{find, "cuMemAddressFree"};
  Function<CUdeviceptr, std::size_t, std::size_t, CUmemGenericAllocationHandle, unsigned long long> mem_map{find,
                                                                                                            "cuMemMap"};
  Function<CUdeviceptr, std::size_t> mem_unmap{find, "cuMemUnmap"};
  Function<CUdeviceptr, std::size_t, const cuda::CUmemAccessDesc*, std::size_t> mem_set_access{find, "cuMemSetAccess"};
  Function<void*, std::size_t, unsigned> mem_host_register{find, "cuMemHostRegister_v2"};
  Function<void*> mem_host_unregister{find, "cuMemHostUnregister"};
  Function<void**, std::size_t, unsigned> mem_host_alloc{find, "cuMemHostAlloc"};
  Function<void*> mem_free_host{find, "cuMemFreeHost"};
  Function<CUstream*, unsigned> stream_create{find, "cuStreamCreate"};
  Function<CUstream> stream_destroy{find, "cuStreamDestroy_v2"};
  Function<CUstream> stream_synchronize{find, "cuStreamSynchronize"};
  Function<CUdeviceptr, const void*, std::size_t, CUstream> memcpy_htod_async{find, "cuMemcpyHtoDAsync_v2"};
  Function<void*, CUdeviceptr, std::size_t, CUstream> memcpy_dtoh_async{find, "cuMemcpyDtoHAsync_v2"};
  Function<CUevent*, unsigned> event_create{find, "cuEventCreate"};
  Function<CUevent> event_destroy{find, "cuEventDestroy_v2"};
  Function<CUevent, CUstream> event_record{find, "cuEventRecord"};
  Function<CUevent> event_synchronize{find, "cuEventSynchronize"};
};

cuda::CUmemAllocationProp shareable_memory_on(CUdevice device) {
  cuda::CUmemAllocationProp properties;
  properties.location.id = device;
  return properties;
}

// The driver takes pointers to mutable memory for what it only reads.
void* without_const(const std::byte* bytes) {
  return const_cast<std::byte*>(bytes);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

class LoadedDriver final : public Driver {
 public:
  explicit LoadedDriver(FindFunction find) : functions_(std::move(find)) {}

  std::string name_of(CUresult result) override {
    const char* name = nullptr;
    if (functions_.get_error_name(result, &name) != CUresult::success || name == nullptr) {
      return "CUresult " + std::to_string(static_cast<int>(result));
    }
    return name;
  }

  CUresult initialize() override {
    int nobody = 0;
    initialized_in_.compare_exchange_strong(nobody, ::getpid());
    return status(functions_.init, 0U);
  }

  DriverResult<int> version() override { return result<int>(functions_.driver_get_version); }
  DriverResult<int> device_count() override { return result<int>(functions_.device_get_count); }
  DriverResult<CUdevice> device(int number) override { return result<CUdevice>(functions_.device_get, number); }
  DriverResult<cuda::CUuuid> uuid(CUdevice device) override {
    return result<cuda::CUuuid>(functions_.device_get_uuid, device);
  }
  DriverResult<int> attribute(CUdevice device, cuda::CUdevice_attribute attribute) override {
    return result<int>(functions_.device_get_attribute, attribute, device);
  }

  DriverResult<CUcontext> retain_primary_context(CUdevice device) override {
    return result<CUcontext>(functions_.primary_ctx_retain, device);
  }
  CUresult release_primary_context(CUdevice device) override { return status(functions_.primary_ctx_release, device); }
  CUresult push_context(CUcontext context) override { return status(functions_.ctx_push_current, context); }
  CUresult pop_context() override { return result<CUcontext>(functions_.ctx_pop_current).error; }

  DriverResult<std::size_t> granularity(CUdevice device) override {
    const cuda::CUmemAllocationProp properties = shareable_memory_on(device);
    return result<std::size_t>(functions_.mem_get_allocation_granularity, &properties,
                               cuda::CUmemAllocationGranularity_flags::minimum);
  }
  DriverResult<CUmemGenericAllocationHandle> create_memory(CUdevice device, std::size_t size) override {
    const cuda::CUmemAllocationProp properties = shareable_memory_on(device);
    return result<CUmemGenericAllocationHandle>(functions_.mem_create, size, &properties, 0U);
  }

  DriverResult<FileDescriptor> export_memory(CUmemGenericAllocationHandle memory) override {
    int number = -1;
    const CUresult error = status(functions_.mem_export_to_shareable_handle, static_cast<void*>(&number), memory,
                                  cuda::CUmemAllocationHandleType::posix_file_descriptor, 0U);
    if (error != CUresult::success) {
      return {{}, error};
    }
    FileDescriptor descriptor(number);
    if (::fcntl(number, F_SETFD, FD_CLOEXEC) == -1) {
      return {{}, CUresult::unknown};
    }
    return {std::move(descriptor)};
  }

  DriverResult<CUmemGenericAllocationHandle> import_memory(int descriptor) override {
    // The descriptor's number itself, where other handles are pointers.
    void* const handle = std::bit_cast<void*>(static_cast<std::uintptr_t>(descriptor));
    return result<CUmemGenericAllocationHandle>(functions_.mem_import_from_shareable_handle, handle,
                                                cuda::CUmemAllocationHandleType::posix_file_descriptor);
  }

  CUresult release_memory(CUmemGenericAllocationHandle memory) override {
    return status(functions_.mem_release, memory);
  }
  DriverResult<CUdeviceptr> reserve_addresses(std::size_t size) override {
    return result<CUdeviceptr>(functions_.mem_address_reserve, size, std::size_t{0}, CUdeviceptr{0}, 0U);
  }
  CUresult free_addresses(CUdeviceptr address, std::size_t size) override {
    return status(functions_.mem_address_free, address, size);
  }
  CUresult map_memory(CUdeviceptr address, std::size_t size, CUmemGenericAllocationHandle memory) override {
    return status(functions_.mem_map, address, size, std::size_t{0}, memory, 0U);
  }
  CUresult unmap_memory(CUdeviceptr address, std::size_t size) override {
    return status(functions_.mem_unmap, address, size);
  }
  CUresult set_access(CUdeviceptr address, std::size_t size, CUdevice device, Access access) override {
    cuda::CUmemAccessDesc description;
    description.location.id = device;
    description.flags = access == Access::read ? cuda::CUmemAccess_flags::read : cuda::CUmemAccess_flags::read_write;
    return status(functions_.mem_set_access, address, size, &description, std::size_t{1});
  }

  CUresult register_host_memory(std::span<const std::byte> pages) override {
    return status(functions_.mem_host_register, without_const(pages.data()), pages.size(),
                  cuda::kMemHostRegisterReadOnly);
  }
  CUresult unregister_host_memory(const std::byte* pages) override {
    return status(functions_.mem_host_unregister, without_const(pages));
  }
  DriverResult<std::byte*> allocate_host_memory(std::size_t size) override {
    const DriverResult<void*> memory = result<void*>(functions_.mem_host_alloc, size, 0U);
    return {static_cast<std::byte*>(memory.value), memory.error};
  }
  CUresult free_host_memory(std::byte* memory) override { return status(functions_.mem_free_host, memory); }

  DriverResult<CUstream> create_stream() override {
    return result<CUstream>(functions_.stream_create, cuda::kStreamNonBlocking);
  }
  CUresult destroy_stream(CUstream stream) override { return status(functions_.stream_destroy, stream); }
  CUresult synchronize(CUstream stream) override { return status(functions_.stream_synchronize, stream); }
  CUresult copy_to_device(CUdeviceptr to, std::span<const std::byte> from, CUstream stream) override {
    return status(functions_.memcpy_htod_async, to, from.data(), from.size(), stream);
  }
  CUresult copy_to_host(std::span<std::byte> to, CUdeviceptr from, CUstream stream) override {
    return status(functions_.memcpy_dtoh_async, to.data(), from, to.size(), stream);
  }

  DriverResult<CUevent> create_event() override {
    return result<CUevent>(functions_.event_create, cuda::kEventBlockingSync | cuda::kEventDisableTiming);
  }
  CUresult destroy_event(CUevent event) override { return status(functions_.event_destroy, event); }
  CUresult record(CUevent event, CUstream stream) override { return status(functions_.event_record, event, stream); }
  CUresult wait_for(CUevent event) override { return status(functions_.event_synchronize, event); }

 private:
  [[nodiscard]] bool in_forked_child() const {
    const int process = initialized_in_.load();
    return process != 0 && process != ::getpid();
  }

  template <typename Called, typename... Arguments>
  [[nodiscard]] CUresult status(const Called& function, Arguments... arguments) const {
    return in_forked_child() ? CUresult::not_initialized : function(arguments...);
  }

  // What a function gives by the pointer that is its first argument.
  template <typename T, typename Called, typename... Arguments>
  [[nodiscard]] DriverResult<T> result(const Called& function, Arguments... arguments) const {
    DriverResult<T> result;
    result.error = status(function, &result.value, arguments...);
    return result;
  }

  Functions functions_;
  std::atomic<int> initialized_in_ = 0;  // A process; 0: none yet.
};

// Loaded by its constructor, so that a static object can be one.
struct RealDriver {
  std::unique_ptr<Driver> loaded = load_driver("libcuda.so.1");
};

}  // namespace

std::unique_ptr<Driver> make_driver(FindFunction find) { return std::make_unique<LoadedDriver>(std::move(find)); }

std::unique_ptr<Driver> load_driver(const std::string& library) {
  void* const loaded = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (loaded == nullptr) {
    const char* const reason = ::dlerror();  // NOLINT(concurrency-mt-unsafe): it is the calling thread's own.
    throw Error(Error::Code::no_device_driver,
                std::string("The CUDA driver cannot be loaded (") + (reason != nullptr ? reason : library.c_str()) +
                    "): install NVIDIA's driver, or give the container access to the GPU");
  }
  return make_driver([loaded](const char* name) { return ::dlsym(loaded, name); });
}

Driver& Driver::real() {
  static Immortal<RealDriver> driver;
  return *driver.get().loaded;
}

}  // namespace zerocopy
