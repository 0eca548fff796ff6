// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "data/shard_format.hpp"
#include "data/tokenizer.hpp"

namespace kumiko::data {

// One shard, verified whole at opening: the digest over all bytes, the shapes, every token id. Read only;
// safe to use from several threads. Opening reads the file twice (about 1 s a GB); afterwards only what is
// asked for.
class ShardReader {
 public:
  // Throws DataError that names the file and says what is wrong with it: missing, not a shard, of a newer
  // version, truncated, damaged, or with ids beyond its vocabulary.
  explicit ShardReader(const std::filesystem::path& path);
  ShardReader(ShardReader&&) noexcept;
  ShardReader& operator=(ShardReader&&) noexcept;
  ~ShardReader();

  const ShardInfo& info() const noexcept;
  std::vector<std::int64_t> token_counts() const;      // [vocab_size]
  std::vector<std::int64_t> document_offsets() const;  // [documents + 1]
  Tokenizer tokenizer() const;

  // Tokens [first, first + out.size()) of the shard. Throws DataError when the file has changed under us.
  void read(std::int64_t first, std::span<std::int64_t> out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// True when the file begins as a shard does; for commands that take several kinds of files.
bool looks_like_shard(const std::filesystem::path& path) noexcept;

}  // namespace kumiko::data
