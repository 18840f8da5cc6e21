// What tests know of the library that stands for libcuda.so.1.
#pragma once

#include <cstddef>

#include "device/device.h"

namespace zerocopy::testing {

// The only device that it has.
inline constexpr DeviceUuid kStubGpu{std::byte{0xAB}, std::byte{0xCD}};

// An exported function of the library: FakeDriver::complaints() of the driver behind it.
using StubComplaints = const char* (*)();
inline constexpr const char* kStubComplaints = "zerocopy_stub_complaints";

}  // namespace zerocopy::testing
