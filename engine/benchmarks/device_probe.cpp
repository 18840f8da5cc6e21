// What has to be known of a GPU before models can share memory on it, asked of the machine's first one:
//   * Does memory live on while only a descriptor is held, by a process without CUDA, and its uploader was killed?
//   * Does a mapping for reading stop a kernel's write, and what does the fault do to another process that reads?
//   * What does a mapping of 2 and 20 GB cost?
//   * Which way of uploading from pages that are shared for reading comes how close to the rate of pinned memory?
// Prints the answers. Run it twice, without and with MPS. Ends with 77 where there is no CUDA driver, with 1 when a
// step could not be done.
//
// CUDA does not survive a fork: this process never initializes it, and each step runs in a child of its own.
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device/device.h"
#include "device/device_mapping.h"
#include "device/device_memory.h"
#include "device/host_registration.h"
#include "device/pinned_buffer.h"
#include "device/staged_upload.h"
#include "device/stream.h"
#include "store.h"
#include "zerocopy/error.h"

namespace zerocopy::benchmarks {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kNoDriver = 77;
constexpr std::size_t kGibibyte = std::size_t{1} << 30U;
constexpr std::size_t kShared = 64 * kMebibyte;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

std::shared_ptr<const Device> first_device() {
  Driver& driver = Driver::real();
  return std::make_shared<const Device>(visible_devices(driver).at(0), driver);
}

// A child that runs one step. Its exit status is what wait() returns: 0 unless the step threw.
class Child {
 public:
  explicit Child(const std::function<void()>& step) : process_(::fork()) {
    if (process_ == 0) {
      ::alarm(300);
      int status = 0;
      try {
        step();
      } catch (const std::exception& error) {
        std::printf("  failed: %s\n", error.what());
        status = 1;
      }
      ::_exit(status);
    }
  }
  Child(Child&&) = delete;
  Child& operator=(Child&&) = delete;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      wait();
    }
  }

  int wait() {
    int status = 0;
    ::waitpid(std::exchange(process_, -1), &status, 0);
    return status;
  }

 private:
  pid_t process_;
};

// Two ends between this process and a child: for descriptors, and for bytes that say how far the other is.
class Socket {
 public:
  Socket() {
    std::array<int, 2> ends{-1, -1};
    ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data());
    here_ = FileDescriptor(ends[0]);
    there_ = FileDescriptor(ends[1]);
  }

  // In the child.
  void send(int descriptor) const {
    Message message;
    cmsghdr* const header = message.header();
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    ::sendmsg(there_.number(), &message.message, 0);
  }
  void wait_for_parent() const {
    char byte = 0;
    static_cast<void>(::read(there_.number(), &byte, 1) == 1);
  }
  void tell_parent() const { static_cast<void>(::send(there_.number(), "", 1, MSG_NOSIGNAL) == 1); }

  // In this process. No descriptor when the child ended instead.
  FileDescriptor receive() {
    there_ = {};
    Message message;
    if (::recvmsg(here_.number(), &message.message, MSG_CMSG_CLOEXEC) != 1 ||
        CMSG_FIRSTHDR(&message.message) == nullptr) {
      return {};
    }
    int descriptor = -1;
    std::memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message.message)), sizeof descriptor);
    return FileDescriptor(descriptor);
  }
  void wait_for_child() {
    there_ = {};
    char byte = 0;
    static_cast<void>(::read(here_.number(), &byte, 1) == 1);
  }
  void tell_child() const { static_cast<void>(::send(here_.number(), "", 1, MSG_NOSIGNAL) == 1); }

 private:
  struct Message {
    Message() {
      message.msg_iov = &payload;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
    }

    cmsghdr* header() {
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      return header;
    }

    char byte = 0;
    iovec payload{&byte, 1};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
  };

  FileDescriptor here_;
  FileDescriptor there_;
};

std::vector<std::byte> pattern(std::size_t length) {
  std::vector<std::byte> bytes(length);
  for (std::size_t at = 0; at < length; ++at) {
    bytes[at] = static_cast<std::byte>(at * 31 + at / 4096);
  }
  return bytes;
}

bool has_pattern(const std::shared_ptr<const Device>& device, const DeviceMapping& mapping) {
  std::vector<std::byte> read(kShared);
  Stream stream(device);
  stream.copy_to_host(read, mapping, 0);
  stream.synchronize();
  return read == pattern(kShared);
}

// A descriptor of memory with the pattern in it, whose uploader was killed. None when it could not be made.
FileDescriptor orphaned_memory() {
  Socket socket;
  const Child uploader([&] {
    const DeviceMemory memory = DeviceMemory::create(first_device(), kShared);
    const DeviceMapping mapping(memory, Access::read_write);
    StagedUpload upload(memory.device(), 2, 4 * kMebibyte);
    upload.write(mapping, 0, pattern(kShared));
    upload.finish();
    socket.send(memory.share().number());
    ::pause();
  });
  return socket.receive();
}

int probe_lifetime() {
  std::printf("Memory of a killed uploader, held by a descriptor in a process without CUDA, a second later:\n");
  const FileDescriptor held = orphaned_memory();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  return Child([&] {
           const DeviceMemory memory = DeviceMemory::import(first_device(), held.number(), kShared);
           const bool intact = has_pattern(memory.device(), DeviceMapping(memory, Access::read));
           std::printf("  it %s\n", intact ? "has its bytes" : "HAS OTHER BYTES");
         })
      .wait();
}

// A kernel that writes a word: "PTX ISA", https://docs.nvidia.com/cuda/parallel-thread-execution.
constexpr const char* kWriteWord = R"(
.version 6.0
.target sm_70
.address_size 64
.visible .entry write_word(.param .u64 address)
{
  .reg .u64 %rd<3>;
  .reg .u32 %r<2>;
  ld.param.u64 %rd1, [address];
  cvta.to.global.u64 %rd2, %rd1;
  mov.u32 %r1, 1;
  st.global.u32 [%rd2], %r1;
  ret;
}
)";

template <typename Signature>
Signature* function(const char* name) {
  static void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  void* const found = ::dlsym(library, name);
  if (found == nullptr) {
    throw Error(Error::Code::no_device_driver, std::string("The CUDA driver has no function ") + name);
  }
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): as dlsym() has it.
  return reinterpret_cast<Signature*>(found);
}

// "CUDA Driver API", "Module Management" and "Execution Control".
void launch_write(const Device& device, cuda::CUdeviceptr address) {
  using cuda::CUresult;
  device.tell("The kernel cannot be launched", [&](Driver& /*driver*/) {
    void* module = nullptr;
    void* kernel = nullptr;
    CUresult result = function<CUresult(void**, const void*)>("cuModuleLoadData")(&module, kWriteWord);
    if (result == CUresult::success) {
      result = function<CUresult(void**, void*, const char*)>("cuModuleGetFunction")(&kernel, module, "write_word");
    }
    if (result == CUresult::success) {
      std::array<void*, 1> arguments{&address};
      result =
          function<CUresult(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                            void**)>("cuLaunchKernel")(kernel, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments.data(), nullptr);
    }
    if (result == CUresult::success) {
      std::printf("  the kernel runs\n");
      result = function<CUresult()>("cuCtxSynchronize")();
    }
    return result;
  });
}

int probe_read_only() {
  std::printf("A kernel that writes through a mapping for reading:\n");
  const FileDescriptor held = orphaned_memory();
  Socket socket;
  Child bystander([&] {
    const DeviceMemory memory = DeviceMemory::import(first_device(), held.number(), kShared);
    const DeviceMapping mapping(memory, Access::read);
    const bool before = has_pattern(memory.device(), mapping);
    socket.tell_parent();
    socket.wait_for_parent();
    std::printf("  bystander: bytes right before %d, after the write %d\n", before ? 1 : 0,
                has_pattern(memory.device(), mapping) ? 1 : 0);
  });
  socket.wait_for_child();
  Child([&] {
    const DeviceMemory memory = DeviceMemory::import(first_device(), held.number(), kShared);
    const DeviceMapping mapping(memory, Access::read);
    try {
      launch_write(*memory.device(), mapping.address());
      std::printf("  writer: THE WRITE WAS NOT STOPPED\n");
    } catch (const Error& error) {
      std::printf("  writer: %s\n", error.what());
    }
  }).wait();
  socket.tell_child();
  return bystander.wait();
}

int probe_mapping(std::size_t gigabytes) {
  std::printf("A mapping of %zu GB for reading, in a process that imports it:\n", gigabytes);
  Socket socket;
  const Child owner([&] {
    const DeviceMemory memory = DeviceMemory::create(first_device(), gigabytes * 1'000'000'000);
    socket.send(memory.share().number());
    ::pause();
  });
  const FileDescriptor held = socket.receive();
  if (held.number() == -1) {
    return 0;  // It has said why: there is no room for 20 GB on every GPU.
  }
  return Child([&] {
           const auto device = first_device();
           constexpr std::size_t granule = 2 * kMebibyte;
           const std::size_t size = (gigabytes * 1'000'000'000 + granule - 1) / granule * granule;
           for (int times = 0; times < 5; ++times) {
             const Clock::time_point begin = Clock::now();
             const DeviceMemory memory = DeviceMemory::import(device, held.number(), size);
             const double imported = milliseconds_since(begin);
             {
               const DeviceMapping mapping(memory, Access::read);
               std::printf("  imported in %.2f ms, mapped after %.2f ms", imported, milliseconds_since(begin));
             }
             std::printf(", unmapped after %.2f ms\n", milliseconds_since(begin));
           }
         })
      .wait();
}

// GB/s of the best of five times.
double rate(std::size_t bytes, const std::function<void()>& copy) {
  double best = 0;
  for (int times = 0; times < 5; ++times) {
    const Clock::time_point begin = Clock::now();
    copy();
    best = std::max(best, static_cast<double>(bytes) / 1e6 / milliseconds_since(begin));
  }
  return best;
}

void upload_rates() {
  const Store store(kGibibyte);
  const std::span<const std::byte> bytes = store.map_shared();
  const auto device = first_device();
  const DeviceMapping mapping(DeviceMemory::create(device, bytes.size()), Access::read_write);
  double pinned_rate = 0;
  {
    const PinnedBuffer pinned(device, bytes.size());
    std::memcpy(pinned.bytes().data(), bytes.data(), bytes.size());
    Stream stream(device);
    pinned_rate = rate(bytes.size(), [&] {
      stream.copy_to_device(mapping, 0, pinned.bytes());
      stream.synchronize();
    });
  }
  const auto print = [&](const std::string& way, double found) {
    std::printf("  %-50s %7.2f GB/s, %.2f of pinned\n", way.c_str(), found, found / pinned_rate);
  };
  print("pinned memory", pinned_rate);
  for (const std::size_t buffers : {2U, 4U}) {
    for (const std::size_t mebibytes : {1U, 4U, 16U, 64U}) {
      StagedUpload upload(device, buffers, mebibytes * kMebibyte);
      print(std::to_string(buffers) + " pinned buffers of " + std::to_string(mebibytes) + " MiB",
            rate(bytes.size(), [&] {
              upload.write(mapping, 0, bytes);
              upload.finish();
            }));
    }
  }
  const auto copy_registered = [&] {
    Stream stream(device);
    stream.copy_to_device(mapping, 0, bytes);
    stream.synchronize();
  };
  print("registered, with registering", rate(bytes.size(), [&] {
          const HostRegistration registration(device, bytes);
          copy_registered();
        }));
  const HostRegistration registration(device, bytes);
  print("registered before", rate(bytes.size(), copy_registered));
}

int probe_uploads() {
  std::printf("Uploading 1 GiB from pages that are shared:\n");
  return Child(upload_rates).wait();
}

int probe() {
  try {
    std::printf("CUDA driver for CUDA %d\n", Driver::real().version().value);
  } catch (const Error& error) {
    std::printf("no CUDA driver: %s\n", error.what());
    return kNoDriver;
  }
  const int listed =
      Child([] {
        const auto device = first_device();
        std::printf("device %s\n", to_string(device->uuid()).c_str());
        const int registers = device->ask("It cannot be asked", [&](Driver& driver) {
          return driver.attribute(device->number(), cuda::CUdevice_attribute::read_only_host_registration);
        });
        std::printf("pages for reading only can be registered: %d\n", registers);
      }).wait();
  if (listed != 0) {
    return 1;
  }
  const std::array results{probe_lifetime(), probe_read_only(), probe_mapping(2), probe_mapping(20), probe_uploads()};
  return std::ranges::count(results, 0) == std::ssize(results) ? 0 : 1;
}

}  // namespace
}  // namespace zerocopy::benchmarks

int main() {
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // Nothing is left in a buffer for a child to print again.
  return zerocopy::benchmarks::probe();
}
