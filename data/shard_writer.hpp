// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/shard_format.hpp"
#include "data/tokenizer.hpp"

namespace kumiko::data {

// Collects the documents of one shard in memory and writes them as one durable file. Borrows the tokenizer.
class ShardWriter {
 public:
  ShardWriter(const Tokenizer& tokenizer, std::string split);

  // `ids` without EOS, which is added. Throws DataError for ids outside the vocabulary; an empty document is
  // passed over.
  void add(std::span<const std::int32_t> ids, std::int64_t text_bytes);

  std::int64_t tokens() const noexcept { return offsets_.back(); }
  std::int64_t documents() const noexcept { return static_cast<std::int64_t>(offsets_.size()) - 1; }

  // Writes the file and starts the next shard, empty. Throws DataError when the file cannot be written.
  ShardInfo write(const std::filesystem::path& path);

 private:
  std::span<const std::byte> token_bytes() const noexcept;
  void clear();

  const Tokenizer& tokenizer_;
  std::string split_;
  bool narrow_;  // 16-bit tokens
  std::vector<std::uint16_t> tokens16_;
  std::vector<std::uint32_t> tokens32_;
  std::vector<std::int64_t> offsets_;
  std::vector<std::int64_t> counts_;
  std::int64_t text_bytes_ = 0;
};

}  // namespace kumiko::data
