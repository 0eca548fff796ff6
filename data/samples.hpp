// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/batch.hpp"
#include "data/options.hpp"
#include "data/shard_set.hpp"

namespace kumiko::data {

// Tokens [first, first + length) of a stream: length - 1 inputs and as many targets; 2 <= length <= T + 1.
struct Sample {
  std::int64_t first = 0;
  std::int64_t length = 0;
  friend bool operator==(const Sample&, const Sample&) = default;
};

// All samples of a set of shards, by number. Consecutive samples of one document, or of the packed stream,
// share one token, so that each token but the first is a target once. Packed: no memory; otherwise 16 bytes a
// document. Borrows nothing.
class SampleTable {
 public:
  // With `tail`, packed samples include the last, shorter one.
  SampleTable(const ShardSet& shards, Batching batching, std::int64_t sequence_length, bool tail = false);

  std::int64_t size() const noexcept { return size_; }
  Sample at(std::int64_t index) const noexcept;  // index < size()

 private:
  std::int64_t sequence_length_;
  std::int64_t tokens_;
  std::int64_t size_ = 0;
  std::vector<std::int64_t> documents_;     // [documents + 1], empty when packed
  std::vector<std::int64_t> first_sample_;  // [documents + 1]
};

// Reads the samples into one batch that is as wide as the longest.
Batch make_batch(const ShardSet& shards, std::span<const Sample> samples);

}  // namespace kumiko::data
