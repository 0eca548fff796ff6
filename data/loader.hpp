// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/batch.hpp"
#include "data/options.hpp"
#include "data/samples.hpp"
#include "data/shard_set.hpp"

namespace kumiko::data {

struct LoaderOptions {
  std::int64_t global_batch_size = 1;  // G, samples a step over all ranks
  std::int64_t micro_batch_size = 1;   // b
  int rank = 0;
  int ranks = 1;  // R
  std::uint64_t seed = 0;
  std::int64_t prefetch_steps = 2;  // made ahead in a thread of its own; 0: none
};

// The order in which samples are taken: a new permutation each epoch, without end, by seed and global batch
// only.
class SampleOrder {
 public:
  SampleOrder(SampleTable table, Batching batching, std::int64_t global_batch_size, std::uint64_t seed);

  // Samples [begin, end) of step `step`'s global batch; 0 <= begin <= end <= G.
  std::vector<Sample> samples(std::int64_t step, std::int64_t begin, std::int64_t end);
  std::int64_t size() const noexcept { return table_.size(); }  // samples an epoch

 private:
  Sample sample(std::int64_t position) const;  // position counts samples from the start of the run
  const std::vector<Sample>& window(std::int64_t number);

  SampleTable table_;
  Batching batching_;
  std::int64_t global_batch_size_;
  std::uint64_t key_;
  std::int64_t window_number_ = -1;
  std::vector<Sample> window_;  // bucketed: the samples of 16 global batches in their final order
};

// Rank r takes samples [r G/R, (r+1) G/R) of each global batch, in micro-batches of b consecutive ones.
// Packed batches are all [b, T]; padded and bucketed ones are as wide as their longest sample. The state is
// the number of samples consumed.
class Loader final : public BatchSource {
 public:
  // Borrows the shards. Throws UsageError when R b does not divide G (the message names numbers that do),
  // DataError when the shards have no sample.
  Loader(const ShardSet& shards, const DataOptions& data, const LoaderOptions& options);
  ~Loader() override;

  std::vector<Batch> next_step() override;
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

  std::int64_t samples_per_epoch() const noexcept;
  std::int64_t samples_consumed() const noexcept;
  double epochs() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct EvaluationOptions {
  std::int64_t batch_size = 1;
  std::int64_t max_tokens = 0;  // target tokens over all ranks, kept exactly; 0: all
  int rank = 0;
  int ranks = 1;
};

// The shards from the start, in order, once, whatever the seed: batch j goes to rank j mod R, and the batches
// of all ranks together are those of one rank. Packed data includes the last, shorter sample. Borrows the
// shards.
class EvaluationCursor {
 public:
  EvaluationCursor(const ShardSet& shards, const DataOptions& data, const EvaluationOptions& options);
  std::optional<Batch> next();  // nothing at the end
  void rewind() noexcept {
    next_sample_ = 0;
    targets_ = 0;
    batch_ = 0;
  }

 private:
  const ShardSet& shards_;
  SampleTable table_;
  EvaluationOptions options_;
  std::int64_t next_sample_ = 0;
  std::int64_t targets_ = 0;  // in the batches of all ranks so far
  std::int64_t batch_ = 0;
};

// How often each id is a target among those that such an evaluation covers, whatever its rank: [vocab_size].
std::vector<std::int64_t> count_targets(const ShardSet& shards, const DataOptions& data,
                                        std::int64_t max_tokens);

}  // namespace kumiko::data
