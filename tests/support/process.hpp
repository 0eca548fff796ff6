// SPDX-License-Identifier: Apache-2.0
// Runs a command as a user would and keeps what it said.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/files.hpp"

extern char** environ;

namespace kumiko::test {

struct Finished {
  int exit_code = -1;      // 128 + signal when killed
  std::string output;      // standard output and standard error as they came
};

// A running command in its own process group; killed at destruction.
class Process {
 public:
  // `folder` is the working folder; output goes to `log`.
  Process(const std::vector<std::string>& command, const std::filesystem::path& folder, std::filesystem::path log) : log_(std::move(log)) {
    std::filesystem::remove(log_);   // nobody may take an earlier command's words for this one's
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork failed");
    if (pid_ == 0) {
      ::setpgid(0, 0);
      const int out = ::open(log_.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
      ::dup2(out, 1);
      ::dup2(out, 2);
      if (::chdir(folder.c_str()) != 0) ::_exit(126);
      std::vector<char*> argv;
      for (const auto& word : command) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ > 0) {
      ::kill(-pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  pid_t pid() const noexcept { return pid_; }
  void signal(int number) const { ::kill(pid_, number); }
  void kill_group() const { ::kill(-pid_, SIGKILL); }
  std::string output() const { return read_text(log_); }

  // True when the output came to hold `text` before the process ended or the time ran out.
  bool wait_for_output(const std::string& text, double seconds = 120.0) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < end) {
      if (output().find(text) != std::string::npos) return true;
      if (has_ended()) return output().find(text) != std::string::npos;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  Finished wait() {
    if (pid_ > 0 && !ended_) ::waitpid(pid_, &status_, 0);
    pid_ = -1;
    return {WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_), output()};
  }

 private:
  bool has_ended() {
    if (!ended_ && ::waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = true;
    return ended_;
  }

  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
  std::filesystem::path log_;
};

inline Finished run_command(const std::vector<std::string>& command, const std::filesystem::path& folder) {
  return Process(command, folder, folder / "output.log").wait();
}

}  // namespace kumiko::test
