// The part of the CUDA driver's binary interface that the engine uses, declared here so that no CUDA is needed to build
// it.
//
// Source: NVIDIA, "CUDA Driver API", the chapters "Data types used by CUDA driver", "Error Handling" and "Virtual
// Memory Management" (https://docs.nvidia.com/cuda/cuda-driver-api). Types have the names that they have there.
// Enumerators are named beside ours. Sizes are asserted for the 64-bit platforms that the driver exists on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace zerocopy::cuda {

// NOLINTBEGIN(performance-enum-size): they are as large as the driver has them.

// Those that the engine or its tests tell from others. The driver may return any of its own.
enum class CUresult : int {
  success = 0,                           // CUDA_SUCCESS
  invalid_value = 1,                     // CUDA_ERROR_INVALID_VALUE
  out_of_memory = 2,                     // CUDA_ERROR_OUT_OF_MEMORY
  not_initialized = 3,                   // CUDA_ERROR_NOT_INITIALIZED
  no_device = 100,                       // CUDA_ERROR_NO_DEVICE
  invalid_device = 101,                  // CUDA_ERROR_INVALID_DEVICE
  invalid_context = 201,                 // CUDA_ERROR_INVALID_CONTEXT
  host_memory_already_registered = 712,  // CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
  host_memory_not_registered = 713,      // CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
  not_supported = 801,                   // CUDA_ERROR_NOT_SUPPORTED
  unknown = 999,                         // CUDA_ERROR_UNKNOWN
};

enum class CUdevice_attribute : int {
  virtual_memory_management = 102,    // CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
  posix_file_descriptor = 103,        // CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
  read_only_host_registration = 113,  // CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED
};

using CUdevice = int;
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUdeviceptr = std::uint64_t;
using CUmemGenericAllocationHandle = std::uint64_t;

struct CUuuid {
  std::array<char, 16> bytes{};
};

enum class CUmemAllocationHandleType : int {
  posix_file_descriptor = 1,  // CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
};

enum class CUmemAllocationType : int {
  pinned = 1,  // CU_MEM_ALLOCATION_TYPE_PINNED
};

enum class CUmemLocationType : int {
  device = 1,  // CU_MEM_LOCATION_TYPE_DEVICE
};

struct CUmemLocation {
  CUmemLocationType type = CUmemLocationType::device;
  int id = 0;  // The CUdevice.
};

struct CUmemAllocationProp {
  CUmemAllocationType type = CUmemAllocationType::pinned;
  CUmemAllocationHandleType requested_handle_types = CUmemAllocationHandleType::posix_file_descriptor;
  CUmemLocation location;
  void* win32_handle_meta_data = nullptr;
  std::array<std::byte, 8> allocation_flags{};  // compressionType to reserved: none is used.
};
static_assert(sizeof(CUmemAllocationProp) == 32);

enum class CUmemAllocationGranularity_flags : int {
  minimum = 0,  // CU_MEM_ALLOC_GRANULARITY_MINIMUM
};

enum class CUmemAccess_flags : int {
  read = 1,        // CU_MEM_ACCESS_FLAGS_PROT_READ
  read_write = 3,  // CU_MEM_ACCESS_FLAGS_PROT_READWRITE
};

struct CUmemAccessDesc {
  CUmemLocation location;
  CUmemAccess_flags flags = CUmemAccess_flags::read;
};
static_assert(sizeof(CUmemAccessDesc) == 12);

// NOLINTEND(performance-enum-size)

inline constexpr unsigned kMemHostRegisterReadOnly = 0x08;  // CU_MEMHOSTREGISTER_READ_ONLY
inline constexpr unsigned kStreamNonBlocking = 0x1;         // CU_STREAM_NON_BLOCKING
inline constexpr unsigned kEventBlockingSync = 0x1;         // CU_EVENT_BLOCKING_SYNC
inline constexpr unsigned kEventDisableTiming = 0x2;        // CU_EVENT_DISABLE_TIMING

}  // namespace zerocopy::cuda
