// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace kumiko::tools {

// How a child ended that did not end well.
struct Failure {
  int exit_code = 0;   // 128 + signal where a signal ended it
  std::string reason;  // its last error line, or what the code says
  std::filesystem::path log;
};

// This binary with other arguments, in a process group of its own; its words go to the end of a log. It is
// killed by the kernel when the thread that started it dies, however that happens.
class Child {
 public:
  // Throws UsageError when the log cannot be opened or the process not be started.
  Child(const std::vector<std::string>& arguments, std::filesystem::path log);
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) = delete;
  ~Child();  // kills it when it still runs

  bool has_ended();
  void signal(int number) const;
  double seconds() const;
  // After it has ended: nothing when its exit code was 0.
  std::optional<Failure> failure() const;
  std::string output() const;  // what it said, itself

 private:
  std::filesystem::path log_;
  std::uintmax_t log_begin_ = 0;
  pid_t pid_ = -1;
  int status_ = 0;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Waits until no process holds RUN/run.lock, for up to `seconds`: a run that was killed may take a moment to
// vanish.
void wait_for_lock(const std::filesystem::path& run, double seconds);

}  // namespace kumiko::tools
