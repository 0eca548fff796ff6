// SPDX-License-Identifier: Apache-2.0
#include "framework/core/files.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

[[noreturn]] void fail(int error_number, const std::string& action, const std::filesystem::path& path,
                       const std::string& more = "") {
  throw FileError(error_number,
                  concat("cannot ", action, " '", path.string(), "': ", std::strerror(error_number), more));
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const noexcept { return value_; }
  // A failed close may be a failed write, so it is checked; the descriptor is gone in any case.
  int close() noexcept { return ::close(std::exchange(value_, -1)); }

 private:
  int value_;
};

// Linux cuts one write at 2 GiB.
constexpr std::size_t kWriteBytes = std::size_t{1} << 26;

bool write_all(int descriptor, std::span<const std::byte> bytes) noexcept {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), std::min(bytes.size(), kWriteBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      if (written == 0) errno = EIO;
      return false;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

void write_file_durably(const std::filesystem::path& path,
                        std::span<const std::span<const std::byte>> parts) {
  std::uint64_t total = 0;
  for (const auto part : parts) total += part.size();
  const std::string needed = concat(" (", total, " bytes needed)");
  const std::filesystem::path temporary = path.string() + ".tmp-" + std::to_string(::getpid());

  Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file.get() < 0) fail(errno, "create", temporary, needed);
  bool good = true;
  for (const auto part : parts) good = good && write_all(file.get(), part);
  good = good && ::fsync(file.get()) == 0;
  int error_number = good ? 0 : errno;
  if (file.close() != 0 && good) error_number = errno;
  if (error_number == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error_number = errno;
  if (error_number != 0) {
    ::unlink(temporary.c_str());
    fail(error_number, "write", path, needed);
  }
  sync_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void write_file_durably(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  write_file_durably(path, std::span(&bytes, 1));
}

void write_file_durably(const std::filesystem::path& path, std::string_view text) {
  write_file_durably(path, std::as_bytes(std::span(text)));
}

std::vector<std::byte> read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) fail(errno, "open", path);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(errno, "read", path);
  if (!S_ISREG(status.st_mode))
    throw FileError(0, concat("cannot read '", path.string(), "': it is not a regular file"));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > max_bytes) {
    throw FileError(
        EFBIG, concat("'", path.string(), "' has ", size, " bytes, at most ", max_bytes, " are accepted"));
  }
  std::vector<std::byte> bytes(size);
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t count =
        ::read(file.get(), bytes.data() + filled, std::min(bytes.size() - filled, kWriteBytes));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(errno, "read", path);
    if (count == 0) throw FileError(0, concat("'", path.string(), "' shrank while it was read"));
    filled += static_cast<std::size_t>(count);
  }
  return bytes;
}

void sync_directory(const std::filesystem::path& directory) {
  Descriptor handle(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (handle.get() < 0) fail(errno, "open folder", directory);
  // Some network file systems cannot sync a folder and say EINVAL.
  if (::fsync(handle.get()) != 0 && errno != EINVAL) fail(errno, "sync folder", directory);
}

}  // namespace kumiko
