// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace kumiko {

// Writes a file too large to hold in memory: piece by piece to a temporary sibling, then commit() syncs it,
// renames it to `path` and syncs the folder. Without commit() nothing is left behind and an older file at
// `path` stays. Every failure throws FileError naming the path; a failed write or sync is never tried again.
class DurableStream {
 public:
  // `expected_bytes` is named in messages about a full disk.
  DurableStream(std::filesystem::path path, std::int64_t expected_bytes);
  DurableStream(const DurableStream&) = delete;
  DurableStream& operator=(const DurableStream&) = delete;
  ~DurableStream();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

 private:
  [[noreturn]] void fail(const char* action, int error_number) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::int64_t expected_bytes_;
  int descriptor_ = -1;
  bool committed_ = false;
};

}  // namespace kumiko
