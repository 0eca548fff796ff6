// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace kumiko::data {

// The bytes of a file from first to last, unpacked where its name ends in .gz or .zst.
class ByteReader {
 public:
  virtual ~ByteReader() = default;
  // Fills the front of `out`; 0 at the end. Throws DataError for unreadable, damaged or truncated files.
  virtual std::size_t read(std::span<char> out) = 0;
  // Position in the file as it is on disk, for progress.
  virtual std::uint64_t file_position() const = 0;
};

std::unique_ptr<ByteReader> open_byte_reader(const std::filesystem::path& path);  // throws DataError

// The name without .gz or .zst: "a.jsonl.gz" gives "a.jsonl".
std::filesystem::path unpacked_name(const std::filesystem::path& path);

}  // namespace kumiko::data
