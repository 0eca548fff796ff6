// SPDX-License-Identifier: Apache-2.0
// Files that must survive a crash: a reader sees the old bytes or the new ones, never a part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace kumiko {

// The message names the path and what the system said. Callers turn it into the error of their own subject.
class FileError : public std::runtime_error {
 public:
  FileError(int error_number, const std::string& message)
      : std::runtime_error(message), error_number_(error_number) {}
  int error_number() const noexcept { return error_number_; }  // errno; 0 where the system reported none

 private:
  int error_number_;
};

// Writes the parts one after the other to a temporary sibling, syncs it, renames it to `path` and syncs the
// folder. On failure nothing is left behind, a file that was at `path` is untouched, and FileError names the
// bytes needed.
void write_file_durably(const std::filesystem::path& path, std::span<const std::span<const std::byte>> parts);
void write_file_durably(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_durably(const std::filesystem::path& path, std::string_view text);

// Throws FileError when the file cannot be read or holds more than `max_bytes`.
std::vector<std::byte> read_file(const std::filesystem::path& path, std::uint64_t max_bytes);

// Makes names created, renamed or removed in `directory` durable; throws FileError.
void sync_directory(const std::filesystem::path& directory);

}  // namespace kumiko
