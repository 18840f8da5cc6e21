#include "fake_driver.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <charconv>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <sstream>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

namespace zerocopy::testing {
namespace {

using cuda::CUcontext;
using cuda::CUdevice;
using cuda::CUdeviceptr;
using cuda::CUevent;
using cuda::CUmemGenericAllocationHandle;
using cuda::CUresult;
using cuda::CUstream;

constexpr std::string_view kMemoryName = "zerocopy-gpu-";

// What the kernel shows as the name of such a file.
std::string shown_name(const DeviceUuid& uuid) {
  return "/memfd:" + std::string(kMemoryName) + to_string(uuid) + " (deleted)";
}

bool whole_granules(std::uint64_t number) { return number % FakeDriver::kGranularity == 0; }

// Addresses [begin, end).
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  [[nodiscard]] bool overlaps(const Range& other) const { return begin < other.end && other.begin < end; }
  [[nodiscard]] bool holds(const Range& other) const { return begin <= other.begin && other.end <= end; }
};

Range range_of(std::span<const std::byte> bytes) {
  const auto begin = std::bit_cast<std::uintptr_t>(bytes.data());
  return {begin, begin + bytes.size()};
}

// What a call needs that it does not itself provide.
enum class Needs : std::uint8_t { nothing, initialization, context };

template <typename Answer>
Answer failed(CUresult result) {
  if constexpr (std::is_same_v<Answer, CUresult>) {
    return result;
  } else {
    return {{}, result};
  }
}

}  // namespace

DeviceUuid FakeGpu::new_uuid() {
  std::random_device random;
  std::array<std::uint32_t, 4> words{random(), random(), random(), random()};
  return std::bit_cast<DeviceUuid>(words);
}

struct FakeDriver::State {
  struct Reservation {
    std::size_t size = 0;
    std::byte* reserved = nullptr;  // What the operating system gave, which is longer.
  };
  struct DeviceMapped {
    std::size_t size = 0;
    std::optional<Access> access;
  };
  struct Copy {
    std::byte* to = nullptr;
    const std::byte* from = nullptr;
    std::size_t length = 0;
  };
  struct Work {
    std::deque<Copy> pending;
    std::uint64_t done = 0;  // Copies made.

    void run_until(std::uint64_t count) {
      while (done < count && !pending.empty()) {
        const Copy copy = pending.front();
        std::memcpy(copy.to, copy.from, copy.length);
        pending.pop_front();
        ++done;
      }
    }
    void run() { run_until(done + pending.size()); }
  };
  struct Recorded {
    CUstream stream = nullptr;
    std::uint64_t after = 0;  // Copies.
  };

  std::vector<FakeGpu> gpus;
  std::atomic<int> process = 0;  // In which it was initialized.
  mutable std::mutex mutex;
  std::uint64_t last_handle = 0;
  std::map<CUdevice, int> retained;
  std::map<std::thread::id, std::vector<CUcontext>> current;
  std::map<CUmemGenericAllocationHandle, FileDescriptor> memory;
  std::map<CUdeviceptr, Reservation> reservations;
  std::map<CUdeviceptr, DeviceMapped> mapped;
  std::map<std::uint64_t, std::uint64_t> registered;  // Begin to end.
  std::map<std::byte*, std::vector<std::byte>> allocated;
  std::map<CUstream, Work> streams;
  std::map<CUevent, Recorded> events;
  std::vector<std::string> misuses;
  std::set<std::string> calls;
  std::optional<std::pair<std::size_t, CUresult>> to_refuse;
  std::optional<std::string> refused;

  // Makes a call of that name, if nothing is against it.
  template <typename Body>
  auto call(const char* name, Needs needs, Body body) -> decltype(body()) {
    using Answer = decltype(body());
    const int initialized_in = process.load();
    if (initialized_in != 0 && initialized_in != ::getpid()) {
      return failed<Answer>(CUresult::not_initialized);
    }
    const std::scoped_lock lock(mutex);
    calls.insert(name);
    if (to_refuse && to_refuse->first-- == 0) {
      const CUresult result = to_refuse->second;
      to_refuse.reset();
      refused = name;
      return failed<Answer>(result);
    }
    if (needs != Needs::nothing && initialized_in == 0) {
      return failed<Answer>(misuse(name, "before cuInit", CUresult::not_initialized));
    }
    if (needs == Needs::context && !current.contains(std::this_thread::get_id())) {
      return failed<Answer>(misuse(name, "without a current context", CUresult::invalid_context));
    }
    return body();
  }

  CUresult misuse(const char* name, const std::string& how, CUresult result = CUresult::invalid_value) {
    misuses.push_back(std::string(name) + " " + how);
    return result;
  }

  template <typename Handle>
  Handle new_handle() {
    return std::bit_cast<Handle>(++last_handle);
  }

  [[nodiscard]] bool has(CUdevice device) const { return device >= 0 && std::cmp_less(device, gpus.size()); }

  [[nodiscard]] bool is_pinned(const Range& bytes) const {
    return std::ranges::any_of(registered,
                               [&](const auto& pages) { return Range{pages.first, pages.second}.holds(bytes); }) ||
           std::ranges::any_of(allocated, [&](const auto& buffer) { return range_of(buffer.second).holds(bytes); });
  }

  // Whether a program on the device may do that with all of the bytes.
  [[nodiscard]] bool allows(const Range& bytes, Access access) const {
    return std::ranges::any_of(mapped, [&](const auto& entry) {
      const DeviceMapped& mapping = entry.second;
      return mapping.access && (access == Access::read || mapping.access == Access::read_write) &&
             Range{entry.first, entry.first + mapping.size}.holds(bytes);
    });
  }

  [[nodiscard]] bool is_waited_for(const Range& bytes) const {
    return std::ranges::any_of(streams, [&](const auto& stream) {
      return std::ranges::any_of(stream.second.pending, [&](const Copy& copy) {
        return range_of({copy.to, copy.length}).overlaps(bytes) || range_of({copy.from, copy.length}).overlaps(bytes);
      });
    });
  }

  CUresult copy(std::span<std::byte> to, std::span<const std::byte> from, bool is_pinned_copy, CUstream stream) {
    const auto found = streams.find(stream);
    if (found == streams.end()) {
      return CUresult::invalid_value;
    }
    found->second.pending.push_back({to.data(), from.data(), from.size()});
    if (!is_pinned_copy) {
      found->second.run();
    }
    return CUresult::success;
  }
};

FakeDriver::FakeDriver(std::vector<FakeGpu> gpus) : state_(std::make_unique<State>()) {
  state_->gpus = std::move(gpus);
}

FakeDriver::~FakeDriver() = default;

const std::vector<FakeGpu>& FakeDriver::gpus() const { return state_->gpus; }

std::string FakeDriver::complaints() const {
  const std::scoped_lock lock(state_->mutex);
  std::ostringstream text;
  const auto count = [&](std::size_t number, const char* what) {
    if (number != 0) {
      text << number << " " << what << " held; ";
    }
  };
  for (const std::string& misuse : state_->misuses) {
    text << misuse << "; ";
  }
  for (const auto& [device, times] : state_->retained) {
    count(static_cast<std::size_t>(times), "retained contexts");
  }
  count(state_->current.size(), "threads with current contexts");
  count(state_->memory.size(), "handles");
  count(state_->reservations.size(), "reservations");
  count(state_->mapped.size(), "mappings");
  count(state_->registered.size(), "registrations");
  count(state_->allocated.size(), "pinned buffers");
  count(state_->streams.size(), "streams");
  count(state_->events.size(), "events");
  return text.str();
}

std::size_t FakeDriver::used(const DeviceUuid& uuid) {
  const std::string name = shown_name(uuid);
  std::map<std::uint64_t, std::size_t> sizes;  // By inode.
  std::error_code gone;                        // Processes end while they are looked at.
  for (const auto& process : std::filesystem::directory_iterator("/proc", gone)) {
    const std::string number = process.path().filename();
    // Those that a test forks are in its group. To look at all would take long on a busy machine.
    if (number.find_first_not_of("0123456789") != std::string::npos || ::getpgid(std::stoi(number)) != ::getpgrp()) {
      continue;
    }
    for (std::filesystem::directory_iterator file(process.path() / "fd", gone), end; !gone && file != end;
         file.increment(gone)) {
      std::error_code closed;
      using Stat = struct stat;
      Stat status{};
      if (std::filesystem::read_symlink(file->path(), closed) == name && ::stat(file->path().c_str(), &status) == 0) {
        sizes[status.st_ino] = static_cast<std::size_t>(status.st_size);
      }
    }
    std::ifstream maps(process.path() / "maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.ends_with(name)) {
        std::istringstream fields(line);
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        std::uint64_t inode = 0;
        char dash = 0;
        std::string skipped;
        fields >> std::hex >> begin >> dash >> end >> skipped >> skipped >> skipped >> std::dec >> inode;
        sizes[inode] = std::max(sizes[inode], static_cast<std::size_t>(end - begin));
      }
    }
    gone.clear();
  }
  std::size_t sum = 0;
  for (const auto& [inode, size] : sizes) {
    sum += size;
  }
  return sum;
}

void FakeDriver::refuse(std::size_t nth, CUresult result) {
  const std::scoped_lock lock(state_->mutex);
  state_->to_refuse = {nth, result};
  state_->refused.reset();
}

std::optional<std::string> FakeDriver::refused() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->refused;
}

std::set<std::string> FakeDriver::calls() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->calls;
}

std::string FakeDriver::name_of(CUresult result) {
  switch (result) {
    case CUresult::success:
      return "CUDA_SUCCESS";
    case CUresult::invalid_value:
      return "CUDA_ERROR_INVALID_VALUE";
    case CUresult::out_of_memory:
      return "CUDA_ERROR_OUT_OF_MEMORY";
    case CUresult::not_initialized:
      return "CUDA_ERROR_NOT_INITIALIZED";
    case CUresult::no_device:
      return "CUDA_ERROR_NO_DEVICE";
    case CUresult::invalid_device:
      return "CUDA_ERROR_INVALID_DEVICE";
    case CUresult::invalid_context:
      return "CUDA_ERROR_INVALID_CONTEXT";
    case CUresult::host_memory_already_registered:
      return "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED";
    case CUresult::host_memory_not_registered:
      return "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED";
    case CUresult::not_supported:
      return "CUDA_ERROR_NOT_SUPPORTED";
    case CUresult::unknown:
      return "CUDA_ERROR_UNKNOWN";
  }
  return "CUresult " + std::to_string(static_cast<int>(result));
}

CUresult FakeDriver::initialize() {
  return state_->call("cuInit", Needs::nothing, [&] {
    if (state_->gpus.empty()) {
      return CUresult::no_device;
    }
    state_->process = ::getpid();
    return CUresult::success;
  });
}

DriverResult<int> FakeDriver::version() {
  return state_->call("cuDriverGetVersion", Needs::nothing, [] { return DriverResult<int>{13000}; });
}

DriverResult<int> FakeDriver::device_count() {
  return state_->call("cuDeviceGetCount", Needs::initialization,
                      [&] { return DriverResult<int>{static_cast<int>(state_->gpus.size())}; });
}

DriverResult<CUdevice> FakeDriver::device(int number) {
  return state_->call("cuDeviceGet", Needs::initialization, [&]() -> DriverResult<CUdevice> {
    return state_->has(number) ? DriverResult<CUdevice>{number} : DriverResult<CUdevice>{0, CUresult::invalid_device};
  });
}

DriverResult<cuda::CUuuid> FakeDriver::uuid(CUdevice device) {
  return state_->call("cuDeviceGetUuid", Needs::initialization, [&]() -> DriverResult<cuda::CUuuid> {
    if (!state_->has(device)) {
      return {{}, CUresult::invalid_device};
    }
    return {std::bit_cast<cuda::CUuuid>(state_->gpus[static_cast<std::size_t>(device)].uuid)};
  });
}

DriverResult<int> FakeDriver::attribute(CUdevice device, cuda::CUdevice_attribute attribute) {
  return state_->call("cuDeviceGetAttribute", Needs::initialization, [&]() -> DriverResult<int> {
    if (!state_->has(device)) {
      return {0, CUresult::invalid_device};
    }
    const FakeGpu& gpu = state_->gpus[static_cast<std::size_t>(device)];
    switch (attribute) {
      case cuda::CUdevice_attribute::virtual_memory_management:
        return {gpu.has_virtual_memory ? 1 : 0};
      case cuda::CUdevice_attribute::posix_file_descriptor:
        return {gpu.has_file_descriptors ? 1 : 0};
      case cuda::CUdevice_attribute::read_only_host_registration:
        return {gpu.registers_read_only ? 1 : 0};
    }
    return {0, CUresult::invalid_value};
  });
}

DriverResult<CUcontext> FakeDriver::retain_primary_context(CUdevice device) {
  return state_->call("cuDevicePrimaryCtxRetain", Needs::initialization, [&]() -> DriverResult<CUcontext> {
    if (!state_->has(device)) {
      return {nullptr, CUresult::invalid_device};
    }
    ++state_->retained[device];
    return {std::bit_cast<CUcontext>(static_cast<std::uintptr_t>(device) + 1)};
  });
}

CUresult FakeDriver::release_primary_context(CUdevice device) {
  return state_->call("cuDevicePrimaryCtxRelease", Needs::initialization, [&] {
    const auto found = state_->retained.find(device);
    if (found == state_->retained.end()) {
      return state_->misuse("cuDevicePrimaryCtxRelease", "of a context not retained", CUresult::invalid_context);
    }
    if (--found->second == 0) {
      state_->retained.erase(found);
    }
    return CUresult::success;
  });
}

CUresult FakeDriver::push_context(CUcontext context) {
  return state_->call("cuCtxPushCurrent", Needs::initialization, [&] {
    const auto device = static_cast<CUdevice>(std::bit_cast<std::uintptr_t>(context)) - 1;
    if (!state_->retained.contains(device)) {
      return state_->misuse("cuCtxPushCurrent", "of a context not retained", CUresult::invalid_context);
    }
    state_->current[std::this_thread::get_id()].push_back(context);
    return CUresult::success;
  });
}

CUresult FakeDriver::pop_context() {
  return state_->call("cuCtxPopCurrent", Needs::context, [&] {
    const auto stack = state_->current.find(std::this_thread::get_id());
    stack->second.pop_back();
    if (stack->second.empty()) {
      state_->current.erase(stack);
    }
    return CUresult::success;
  });
}

DriverResult<std::size_t> FakeDriver::granularity(CUdevice device) {
  return state_->call("cuMemGetAllocationGranularity", Needs::context, [&]() -> DriverResult<std::size_t> {
    return state_->has(device) ? DriverResult<std::size_t>{kGranularity}
                               : DriverResult<std::size_t>{0, CUresult::invalid_device};
  });
}

DriverResult<CUmemGenericAllocationHandle> FakeDriver::create_memory(CUdevice device, std::size_t size) {
  using Answer = DriverResult<CUmemGenericAllocationHandle>;
  return state_->call("cuMemCreate", Needs::context, [&]() -> Answer {
    if (!state_->has(device)) {
      return {0, CUresult::invalid_device};
    }
    if (size == 0 || !whole_granules(size)) {
      return {0, CUresult::invalid_value};
    }
    const FakeGpu& gpu = state_->gpus[static_cast<std::size_t>(device)];
    if (gpu.capacity != SIZE_MAX && (size > gpu.capacity || used(gpu.uuid) > gpu.capacity - size)) {
      return {0, CUresult::out_of_memory};
    }
    FileDescriptor file(::memfd_create((std::string(kMemoryName) + to_string(gpu.uuid)).c_str(), MFD_CLOEXEC));
    if (file.number() == -1 || ::ftruncate(file.number(), static_cast<off_t>(size)) == -1) {
      return {0, CUresult::out_of_memory};
    }
    const auto handle = state_->new_handle<CUmemGenericAllocationHandle>();
    state_->memory.emplace(handle, std::move(file));
    return {handle};
  });
}

DriverResult<FileDescriptor> FakeDriver::export_memory(CUmemGenericAllocationHandle memory) {
  return state_->call("cuMemExportToShareableHandle", Needs::context, [&]() -> DriverResult<FileDescriptor> {
    const auto found = state_->memory.find(memory);
    if (found == state_->memory.end()) {
      return {{}, CUresult::invalid_value};
    }
    return {FileDescriptor(::fcntl(found->second.number(), F_DUPFD_CLOEXEC, 0))};
  });
}

DriverResult<CUmemGenericAllocationHandle> FakeDriver::import_memory(int descriptor) {
  using Answer = DriverResult<CUmemGenericAllocationHandle>;
  return state_->call("cuMemImportFromShareableHandle", Needs::context, [&]() -> Answer {
    std::error_code closed;
    const std::string name =
        std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor), closed).string();
    if (!std::ranges::any_of(state_->gpus, [&](const FakeGpu& gpu) { return shown_name(gpu.uuid) == name; })) {
      return {0, CUresult::invalid_value};
    }
    const auto handle = state_->new_handle<CUmemGenericAllocationHandle>();
    state_->memory.emplace(handle, FileDescriptor(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0)));
    return {handle};
  });
}

CUresult FakeDriver::release_memory(CUmemGenericAllocationHandle memory) {
  return state_->call("cuMemRelease", Needs::context, [&] {
    return state_->memory.erase(memory) == 1 ? CUresult::success
                                             : state_->misuse("cuMemRelease", "of an unknown handle");
  });
}

DriverResult<CUdeviceptr> FakeDriver::reserve_addresses(std::size_t size) {
  return state_->call("cuMemAddressReserve", Needs::context, [&]() -> DriverResult<CUdeviceptr> {
    if (size == 0 || !whole_granules(size)) {
      return {0, CUresult::invalid_value};
    }
    // One granule more, for a beginning that is a multiple of it.
    void* const reserved =
        ::mmap(nullptr, size + kGranularity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
      return {0, CUresult::out_of_memory};
    }
    const auto begin = std::bit_cast<std::uintptr_t>(reserved);
    const CUdeviceptr aligned = (begin + kGranularity - 1) / kGranularity * kGranularity;
    state_->reservations[aligned] = {size, static_cast<std::byte*>(reserved)};
    return {aligned};
  });
}

CUresult FakeDriver::free_addresses(CUdeviceptr address, std::size_t size) {
  return state_->call("cuMemAddressFree", Needs::context, [&] {
    const auto found = state_->reservations.find(address);
    if (found == state_->reservations.end() || found->second.size != size) {
      return state_->misuse("cuMemAddressFree", "of addresses not reserved");
    }
    if (state_->mapped.contains(address)) {
      return CUresult::invalid_value;
    }
    ::munmap(found->second.reserved, size + kGranularity);
    state_->reservations.erase(found);
    return CUresult::success;
  });
}

CUresult FakeDriver::map_memory(CUdeviceptr address, std::size_t size, CUmemGenericAllocationHandle memory) {
  return state_->call("cuMemMap", Needs::context, [&] {
    const auto found = state_->memory.find(memory);
    const auto reservation = state_->reservations.find(address);
    using Stat = struct stat;
    Stat status{};
    if (found == state_->memory.end() || reservation == state_->reservations.end() || !whole_granules(size) ||
        reservation->second.size < size || state_->mapped.contains(address) ||
        ::fstat(found->second.number(), &status) == -1 || std::cmp_greater(size, status.st_size)) {
      return CUresult::invalid_value;
    }
    if (::mmap(std::bit_cast<void*>(address), size, PROT_NONE, MAP_SHARED | MAP_FIXED, found->second.number(), 0) ==
        MAP_FAILED) {
      return CUresult::out_of_memory;
    }
    state_->mapped[address] = {size, std::nullopt};
    return CUresult::success;
  });
}

CUresult FakeDriver::unmap_memory(CUdeviceptr address, std::size_t size) {
  return state_->call("cuMemUnmap", Needs::context, [&] {
    const auto found = state_->mapped.find(address);
    if (found == state_->mapped.end() || found->second.size != size) {
      return state_->misuse("cuMemUnmap", "of memory not mapped");
    }
    if (state_->is_waited_for({address, address + size})) {
      return state_->misuse("cuMemUnmap", "of memory that a copy uses");
    }
    void* const reserved = ::mmap(std::bit_cast<void*>(address), size, PROT_NONE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (reserved == MAP_FAILED) {
      return CUresult::unknown;
    }
    state_->mapped.erase(found);
    return CUresult::success;
  });
}

CUresult FakeDriver::set_access(CUdeviceptr address, std::size_t size, CUdevice device, Access access) {
  return state_->call("cuMemSetAccess", Needs::context, [&] {
    const auto found = state_->mapped.find(address);
    if (!state_->has(device)) {
      return CUresult::invalid_device;
    }
    if (found == state_->mapped.end() || found->second.size != size) {
      return CUresult::invalid_value;
    }
    const int protection = access == Access::read ? PROT_READ : PROT_READ | PROT_WRITE;
    if (::mprotect(std::bit_cast<void*>(address), size, protection) == -1) {
      return CUresult::unknown;
    }
    found->second.access = access;
    return CUresult::success;
  });
}

CUresult FakeDriver::register_host_memory(std::span<const std::byte> pages) {
  return state_->call("cuMemHostRegister", Needs::context, [&] {
    const Range range = range_of(pages);
    if (pages.empty()) {
      return CUresult::invalid_value;
    }
    const auto device =
        static_cast<std::size_t>(std::bit_cast<std::uintptr_t>(state_->current[std::this_thread::get_id()].back()) - 1);
    if (!state_->gpus[device].registers_read_only) {
      return CUresult::not_supported;
    }
    if (std::ranges::any_of(state_->registered,
                            [&](const auto& known) { return Range{known.first, known.second}.overlaps(range); })) {
      return CUresult::host_memory_already_registered;
    }
    state_->registered[range.begin] = range.end;
    return CUresult::success;
  });
}

CUresult FakeDriver::unregister_host_memory(const std::byte* pages) {
  return state_->call("cuMemHostUnregister", Needs::context, [&] {
    const auto found = state_->registered.find(std::bit_cast<std::uintptr_t>(pages));
    if (found == state_->registered.end()) {
      return state_->misuse("cuMemHostUnregister", "of memory not registered", CUresult::host_memory_not_registered);
    }
    if (state_->is_waited_for({found->first, found->second})) {
      return state_->misuse("cuMemHostUnregister", "of memory that a copy uses");
    }
    state_->registered.erase(found);
    return CUresult::success;
  });
}

DriverResult<std::byte*> FakeDriver::allocate_host_memory(std::size_t size) {
  return state_->call("cuMemHostAlloc", Needs::context, [&]() -> DriverResult<std::byte*> {
    if (size == 0) {
      return {nullptr, CUresult::invalid_value};
    }
    std::vector<std::byte> buffer(size, std::byte{0xA5});
    std::byte* const address = buffer.data();
    state_->allocated.emplace(address, std::move(buffer));
    return {address};
  });
}

CUresult FakeDriver::free_host_memory(std::byte* memory) {
  return state_->call("cuMemFreeHost", Needs::context, [&] {
    const auto found = state_->allocated.find(memory);
    if (found == state_->allocated.end()) {
      return state_->misuse("cuMemFreeHost", "of unknown memory");
    }
    if (state_->is_waited_for(range_of(found->second))) {
      return state_->misuse("cuMemFreeHost", "of memory that a copy uses");
    }
    state_->allocated.erase(found);
    return CUresult::success;
  });
}

DriverResult<CUstream> FakeDriver::create_stream() {
  return state_->call("cuStreamCreate", Needs::context, [&] {
    auto* const stream = state_->new_handle<CUstream>();
    state_->streams[stream];
    return DriverResult<CUstream>{stream};
  });
}

CUresult FakeDriver::destroy_stream(CUstream stream) {
  return state_->call("cuStreamDestroy", Needs::context, [&] {
    const auto found = state_->streams.find(stream);
    if (found == state_->streams.end()) {
      return state_->misuse("cuStreamDestroy", "of an unknown stream");
    }
    found->second.run();  // The reference lets what was begun go on.
    state_->streams.erase(found);
    return CUresult::success;
  });
}

CUresult FakeDriver::synchronize(CUstream stream) {
  return state_->call("cuStreamSynchronize", Needs::context, [&] {
    const auto found = state_->streams.find(stream);
    if (found == state_->streams.end()) {
      return CUresult::invalid_value;
    }
    found->second.run();
    return CUresult::success;
  });
}

CUresult FakeDriver::copy_to_device(CUdeviceptr to, std::span<const std::byte> from, CUstream stream) {
  return state_->call("cuMemcpyHtoDAsync", Needs::context, [&] {
    if (!state_->allows({to, to + from.size()}, Access::read_write)) {
      return CUresult::invalid_value;
    }
    return state_->copy(bytes_at(to, from.size()), from, state_->is_pinned(range_of(from)), stream);
  });
}

CUresult FakeDriver::copy_to_host(std::span<std::byte> to, CUdeviceptr from, CUstream stream) {
  return state_->call("cuMemcpyDtoHAsync", Needs::context, [&] {
    if (!state_->allows({from, from + to.size()}, Access::read)) {
      return CUresult::invalid_value;
    }
    return state_->copy(to, bytes_at(from, to.size()), state_->is_pinned(range_of(to)), stream);
  });
}

DriverResult<CUevent> FakeDriver::create_event() {
  return state_->call("cuEventCreate", Needs::context, [&] {
    auto* const event = state_->new_handle<CUevent>();
    state_->events[event];
    return DriverResult<CUevent>{event};
  });
}

CUresult FakeDriver::destroy_event(CUevent event) {
  return state_->call("cuEventDestroy", Needs::context, [&] {
    return state_->events.erase(event) == 1 ? CUresult::success
                                            : state_->misuse("cuEventDestroy", "of an unknown event");
  });
}

CUresult FakeDriver::record(CUevent event, CUstream stream) {
  return state_->call("cuEventRecord", Needs::context, [&] {
    const auto found = state_->events.find(event);
    const auto work = state_->streams.find(stream);
    if (found == state_->events.end() || work == state_->streams.end()) {
      return CUresult::invalid_value;
    }
    found->second = {stream, work->second.done + work->second.pending.size()};
    return CUresult::success;
  });
}

CUresult FakeDriver::wait_for(CUevent event) {
  return state_->call("cuEventSynchronize", Needs::context, [&] {
    const auto found = state_->events.find(event);
    if (found == state_->events.end()) {
      return CUresult::invalid_value;
    }
    const auto work = state_->streams.find(found->second.stream);
    if (work != state_->streams.end()) {
      work->second.run_until(found->second.after);
    }
    return CUresult::success;
  });
}

}  // namespace zerocopy::testing
