// Forked processes.
#pragma once

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>

#include "system/system.h"

namespace zerocopy::testing {

// Runs `body` in a forked process and returns what went wrong there: what `body` returns, an exception's message, or
// how the process ended. Empty: nothing did. A child that hangs is killed.
inline std::string problem_in_child(const std::function<std::string()>& body) {
  Pipe pipe = System::real().open_pipe().value;
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(30);
    std::string problem;
    try {
      problem = body();
    } catch (const std::exception& error) {
      problem = error.what();
    }
    const bool told = ::write(pipe.write.number(), problem.data(), problem.size()) >= 0;
    // Not _exit(): a race detector would take the parent's threads, which do not exist here, for leaked ones.
    ::syscall(SYS_exit_group, told ? 0 : 1);
  }
  pipe.write = {};
  std::string problem;
  std::array<char, 512> text{};
  for (ssize_t count = 0; (count = ::read(pipe.read.number(), text.data(), text.size())) > 0;) {
    problem.append(text.data(), static_cast<std::size_t>(count));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    problem += " (the child ended with status " + std::to_string(status) + ")";
  }
  return problem;
}

// A process beside this one, under a name of its own, that holds this process's descriptors open until it goes.
class Bystander {
 public:
  explicit Bystander(const char* name) : process_(::fork()) {
    if (process_ == 0) {
      ::alarm(60);
      until_.write = {};
      ::prctl(PR_SET_NAME, name);
      char byte = 0;
      if (::write(ready_.write.number(), &byte, 1) == 1) {
        static_cast<void>(::read(until_.read.number(), &byte, 1) == 0);
      }
      ::_exit(0);
    }
    ready_.write = {};
    char byte = 0;
    if (::read(ready_.read.number(), &byte, 1) != 1) {
      throw std::runtime_error("the bystander did not start");
    }
  }
  Bystander(const Bystander&) = delete;
  Bystander& operator=(const Bystander&) = delete;
  Bystander(Bystander&&) = delete;
  Bystander& operator=(Bystander&&) = delete;
  ~Bystander() {
    until_.write = {};
    ::waitpid(process_, nullptr, 0);
  }

  [[nodiscard]] int process() const { return process_; }

 private:
  Pipe ready_ = System::real().open_pipe().value;
  Pipe until_ = System::real().open_pipe().value;
  pid_t process_;
};

}  // namespace zerocopy::testing
