// SPDX-License-Identifier: Apache-2.0
#include "data/samples.hpp"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

namespace kumiko::data {

SampleTable::SampleTable(const ShardSet& shards, Batching batching, std::int64_t sequence_length, bool tail)
    : sequence_length_(sequence_length), tokens_(shards.tokens()) {
  const std::int64_t targets = std::max<std::int64_t>(tokens_ - 1, 0);
  if (batching == Batching::packed) {
    size_ = (targets + (tail ? sequence_length - 1 : 0)) / sequence_length;
    return;
  }
  documents_ = shards.document_offsets();
  first_sample_.reserve(documents_.size());
  for (std::size_t i = 0; i + 1 < documents_.size(); ++i) {
    first_sample_.push_back(size_);
    size_ += (documents_[i + 1] - documents_[i] - 1 + sequence_length - 1) / sequence_length;
  }
  first_sample_.push_back(size_);
}

Sample SampleTable::at(std::int64_t index) const noexcept {
  if (documents_.empty()) {
    const std::int64_t first = index * sequence_length_;
    return {first, std::min(sequence_length_ + 1, tokens_ - first)};
  }
  const auto next = std::upper_bound(first_sample_.begin(), first_sample_.end(), index);
  const auto document = static_cast<std::size_t>(next - first_sample_.begin()) - 1;
  const std::int64_t first = documents_[document] + (index - first_sample_[document]) * sequence_length_;
  return {first, std::min(sequence_length_ + 1, documents_[document + 1] - first)};
}

Batch make_batch(const ShardSet& shards, std::span<const Sample> samples) {
  std::int64_t width = 1;
  for (const Sample& sample : samples) width = std::max(width, sample.length - 1);
  const auto rows = static_cast<std::int64_t>(samples.size());
  Batch batch{at::full({rows, width}, shards.eos_id(), at::kLong),
              at::full({rows, width}, kNoTarget, at::kLong)};
  auto* tokens = batch.tokens.data_ptr<std::int64_t>();
  auto* targets = batch.targets.data_ptr<std::int64_t>();
  std::vector<std::int64_t> buffer;
  for (const Sample& sample : samples) {
    buffer.resize(static_cast<std::size_t>(sample.length));
    shards.read(sample.first, buffer);
    std::copy(buffer.begin(), buffer.end() - 1, tokens);
    std::copy(buffer.begin() + 1, buffer.end(), targets);
    batch.target_count += sample.length - 1;
    tokens += width;
    targets += width;
  }
  return batch;
}

}  // namespace kumiko::data
