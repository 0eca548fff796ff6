// SPDX-License-Identifier: Apache-2.0
#include "framework/train/run_folder.hpp"

#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "framework/core/files.hpp"

namespace kumiko {
namespace {

constexpr std::string_view kLockName = "run.lock";
constexpr std::size_t kMaxLockBytes = 4096;

std::string first_line_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// Field 22 of /proc/PID/stat. The name in field 2 may hold blanks and brackets, so counting begins behind its
// last bracket.
std::int64_t start_ticks_of(std::int64_t pid) {
  const std::string stat = first_line_of(concat("/proc/", pid, "/stat"));
  const auto bracket = stat.rfind(')');
  if (bracket == std::string::npos) return 0;
  std::istringstream fields(stat.substr(bracket + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  std::int64_t ticks = 0;
  std::from_chars(field.data(), field.data() + field.size(), ticks);
  return ticks;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S UTC", &parts);
  return text.data();
}

// File systems on which flock of one host may be unknown to another: SMB 1 and 2, CIFS, FUSE (sshfs), 9P. NFS
// shares it.
bool has_private_flock(int descriptor) {
  struct statfs info {};
  if (::fstatfs(descriptor, &info) != 0) return true;
  switch (static_cast<std::uint32_t>(info.f_type)) {
    case 0x517bU:
    case 0xfe534d42U:
    case 0xff534d42U:
    case 0x65735546U:
    case 0x01021997U:
      return true;
    default:
      return false;
  }
}

bool is_alive(const RunHolder& holder) {
  return (::kill(static_cast<pid_t>(holder.pid), 0) == 0 || errno == EPERM) &&
         start_ticks_of(holder.pid) == holder.start_ticks;
}

std::string reason(int error_number) { return std::generic_category().message(error_number); }

std::string read_lock(int descriptor) {
  std::string text(kMaxLockBytes, '\0');
  const ssize_t got = ::pread(descriptor, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& who,
                         const std::string& advice) {
  throw UsageError(concat("the run folder ", path.string(), " is in use by ", who, "; ", advice));
}

}  // namespace

RunHolder RunHolder::self() {
  std::array<char, HOST_NAME_MAX + 1> host{};
  ::gethostname(host.data(), host.size() - 1);
  return {.host = host.data(),
          .pid = ::getpid(),
          .boot_id = first_line_of("/proc/sys/kernel/random/boot_id"),
          .start_ticks = start_ticks_of(::getpid()),
          .since = utc_now()};
}

std::string RunHolder::to_text() const {
  return concat("host: ", host, "\npid: ", pid, "\nboot_id: ", boot_id, "\nstart_ticks: ", start_ticks,
                "\nsince: ", since, "\n");
}

std::optional<RunHolder> RunHolder::parse(std::string_view text) {
  std::map<std::string, std::string> values;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const auto colon = line.find(": ");
    if (colon != std::string::npos) values[line.substr(0, colon)] = line.substr(colon + 2);
  }
  RunHolder holder{.host = values["host"], .boot_id = values["boot_id"], .since = values["since"]};
  const auto number = [&](const char* key, std::int64_t& out) {
    const std::string& digits = values[key];
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (holder.host.empty() || !number("pid", holder.pid) || !number("start_ticks", holder.start_ticks))
    return std::nullopt;
  return holder;
}

std::string RunHolder::describe() const {
  return concat("process ", pid, " on host ", host, " since ", since);
}

RunFolder::RunFolder(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  KUMIKO_EXPECTS(!error, UsageError, "cannot make the run folder ", path_.string(), ": ", error.message(),
                 "; choose another output_dir or change the permissions above it");
  KUMIKO_EXPECTS(std::filesystem::is_directory(path_, error), UsageError, "the run folder ", path_.string(),
                 " is no directory; choose another output_dir");
  lock();
  try {
    check_writable();
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

RunFolder::~RunFolder() {
  // An emptied file says that the run ended by itself.
  [[maybe_unused]] const int emptied = ::ftruncate(lock_, 0);
  ::close(lock_);
}

void RunFolder::check_writable() const {
  const std::string text = RunHolder::self().to_text();
  const bool written = ::ftruncate(lock_, 0) == 0 &&
                       ::pwrite(lock_, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
  KUMIKO_EXPECTS(written, UsageError, "cannot write in the run folder ", path_.string(), ": ", reason(errno),
                 "; make room or choose another output_dir");
}

void RunFolder::lock() {
  const std::filesystem::path file = path_ / kLockName;
  lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  KUMIKO_EXPECTS(lock_ >= 0, UsageError, "cannot write in the run folder ", path_.string(), ": ",
                 reason(errno), "; choose another output_dir or change its permissions");
  const int locked = ::flock(lock_, LOCK_EX | LOCK_NB);
  const int lock_error = locked == 0 ? 0 : errno;
  const auto holder = RunHolder::parse(read_lock(lock_));
  const std::string who = holder ? holder->describe() : "another run";
  const bool here = holder && holder->boot_id == RunHolder::self().boot_id;
  const bool elsewhere = holder && !here && has_private_flock(lock_);
  const int descriptor = lock_;
  if (lock_error == EWOULDBLOCK) {
    ::close(descriptor);
    refuse(path_, who, "wait for it, stop it, or choose another output_dir");
  }
  if (elsewhere) {
    ::close(descriptor);
    refuse(path_, who, concat("if that run is dead, remove ", file.string()));
  }
  if (lock_error != 0 && here && is_alive(*holder)) {
    ::close(descriptor);
    refuse(path_, who, "wait for it, stop it, or choose another output_dir");
  }
  dead_holder_ = holder;
}

void RunFolder::write_recipe(std::string_view resolved_yaml) const {
  try {
    write_file_durably(path_ / "recipe.yaml", resolved_yaml);
  } catch (const FileError& error) {
    throw UsageError(concat(error.what(), "; make room or choose another output_dir"));
  }
}

bool RunFolder::take_stop_request() const { return ::unlink((path_ / "stop").c_str()) == 0; }

}  // namespace kumiko
