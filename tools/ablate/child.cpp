// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/child.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framework/core/error.hpp"

namespace kumiko::tools {
namespace {

constexpr std::string_view kErrorMark = "kumiko: error: ";

std::string describe_code(int code) {
  switch (static_cast<ExitCode>(code)) {
    case ExitCode::usage:
      return "command line or recipe";
    case ExitCode::data:
      return "data";
    case ExitCode::checkpoint:
      return "checkpoint";
    case ExitCode::out_of_memory:
      return "out of memory";
    case ExitCode::diverged:
      return "diverged";
    default:
      break;
  }
  if (code == 128 + SIGKILL)
    return "killed by signal 9; the kernel does that too when memory runs out, see its log";
  if (code > 128) return concat("ended by signal ", code - 128, " (", ::strsignal(code - 128), ")");
  return concat("exit code ", code);
}

// The error line and those that go with it, up to the end.
std::string last_error(const std::string& output) {
  const std::size_t at = output.rfind(kErrorMark);
  if (at == std::string::npos) return "";
  std::string text = output.substr(at + kErrorMark.size());
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace

Child::Child(const std::vector<std::string>& arguments, std::filesystem::path log) : log_(std::move(log)) {
  const int out = ::open(log_.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0666);
  KUMIKO_EXPECTS(out >= 0, UsageError, "cannot open ", log_.string(), ": ", std::strerror(errno),
                 "; make room or choose another output_dir");
  std::error_code unknown;
  log_begin_ = std::filesystem::file_size(log_, unknown);
  std::vector<char*> argv = {const_cast<char*>("kumiko")};
  for (const auto& word : arguments) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(128 + SIGKILL);  // the parent died before the kernel knew
    ::setpgid(0, 0);
    ::signal(SIGUSR1, SIG_IGN);  // it may come before 'train' handles it
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    const int nothing = ::open("/dev/null", O_RDONLY);
    ::dup2(nothing, STDIN_FILENO);
    ::execv("/proc/self/exe", argv.data());   // also where a new build has taken its place since
    ::_exit(127);
  }
  const int problem = errno;
  ::close(out);
  KUMIKO_EXPECTS(pid_ > 0, UsageError, "cannot start a run: ", std::strerror(problem), "; give a smaller -j");
}

Child::Child(Child&& other) noexcept
    : log_(std::move(other.log_)),
      log_begin_(other.log_begin_),
      pid_(std::exchange(other.pid_, -1)),
      status_(other.status_),
      begin_(other.begin_) {}

Child::~Child() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Child::has_ended() {
  if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = -1;
  return pid_ <= 0;
}

void Child::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

double Child::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

std::string Child::output() const {
  std::ifstream in(log_, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(log_begin_));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::optional<Failure> Child::failure() const {
  const int code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  if (code == 0) return std::nullopt;
  const std::string said = last_error(output());
  return Failure{code, said.empty() ? describe_code(code) : said, log_};
}

void wait_for_lock(const std::filesystem::path& run, double seconds) {
  const int lock = ::open((run / "run.lock").c_str(), O_RDWR | O_CLOEXEC);
  if (lock < 0) return;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (::flock(lock, LOCK_EX | LOCK_NB) != 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ::close(lock);
}

}  // namespace kumiko::tools
