// SPDX-License-Identifier: Apache-2.0
#include "framework/train/durable_stream.hpp"

#include <cerrno>
#include <cstdio>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "framework/core/files.hpp"

namespace kumiko {

DurableStream::DurableStream(std::filesystem::path path, std::int64_t expected_bytes)
    : path_(std::move(path)),
      temporary_(concat(path_.string(), ".tmp-", ::getpid())),
      expected_bytes_(expected_bytes) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("create", errno);
}

DurableStream::~DurableStream() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!committed_) ::unlink(temporary_.c_str());
}

void DurableStream::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("write", written < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void DurableStream::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void DurableStream::commit() {
  if (::fsync(descriptor_) != 0) fail("sync", errno);
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) fail("close", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename", errno);
  committed_ = true;
  sync_directory(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
}

void DurableStream::fail(const char* action, int error_number) const {
  throw FileError(error_number, concat("cannot ", action, " ", path_.string(), ": ",
                                       std::generic_category().message(error_number),
                                       "; the whole file needs ", expected_bytes_, " bytes"));
}

}  // namespace kumiko
