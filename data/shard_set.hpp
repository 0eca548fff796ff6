// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/shard_reader.hpp"

namespace kumiko::data {

// Several shards as one stream of tokens, in the order given. Safe to read from several threads.
class ShardSet {
 public:
  // Opens and verifies each. Throws DataError for a bad shard, for shards of different tokenizers, and for
  // none.
  static ShardSet open(const std::vector<std::filesystem::path>& paths);

  std::int64_t tokens() const noexcept { return starts_.back(); }
  std::int64_t documents() const noexcept;
  std::int64_t vocab_size() const noexcept { return shards_.front().info().vocab_size; }
  std::int32_t eos_id() const noexcept { return shards_.front().info().eos_id; }
  const std::string& tokenizer_digest() const noexcept { return shards_.front().info().tokenizer_digest; }
  Tokenizer tokenizer() const { return shards_.front().tokenizer(); }
  std::vector<std::int64_t> token_counts() const;      // [vocab_size], summed
  std::vector<std::int64_t> document_offsets() const;  // [documents + 1] in the whole stream
  std::string digest() const;  // SHA-256 over the shards' content digests in order, hex
  std::vector<ShardInfo> infos() const;

  // Tokens [first, first + out.size()) of the whole stream, across shards. Throws DataError when they are not
  // there.
  void read(std::int64_t first, std::span<std::int64_t> out) const;

 private:
  explicit ShardSet(std::vector<ShardReader> shards);
  std::vector<ShardReader> shards_;
  std::vector<std::int64_t> starts_;  // [shards + 1]
};

// exp of the mean negative log likelihood of `targets` under the frequencies of `counts`, each raised by one
// so that no id is impossible. Both [vocab_size].
double unigram_perplexity(std::span<const std::int64_t> counts, std::span<const std::int64_t> targets);

}  // namespace kumiko::data
