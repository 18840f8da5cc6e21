#include "device/driver.h"

namespace zerocopy {

Error device_error(Driver& driver, const std::string& not_done, cuda::CUresult result) {
  return {Error::Code::device_call, not_done + ": " + driver.name_of(result), static_cast<int>(result)};
}

}  // namespace zerocopy
