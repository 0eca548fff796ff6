// SPDX-License-Identifier: Apache-2.0
#include "data/shard_set.hpp"

#include <algorithm>
#include <cmath>

#include "framework/core/error.hpp"
#include "framework/core/sha256.hpp"

namespace kumiko::data {

ShardSet::ShardSet(std::vector<ShardReader> shards) : shards_(std::move(shards)), starts_{0} {
  for (const ShardReader& shard : shards_) starts_.push_back(starts_.back() + shard.info().tokens);
}

ShardSet ShardSet::open(const std::vector<std::filesystem::path>& paths) {
  KUMIKO_EXPECTS(!paths.empty(), DataError, "no shards are named; make them with 'kumiko prepare'");
  std::vector<ShardReader> shards;
  for (const auto& path : paths) {
    shards.emplace_back(path);
    const ShardInfo& first = shards.front().info();
    const ShardInfo& info = shards.back().info();
    KUMIKO_EXPECTS(info.tokenizer_digest == first.tokenizer_digest && info.vocab_size == first.vocab_size,
                   DataError, "shards '", first.path.string(), "' (vocabulary ", first.vocab_size, ") and '",
                   info.path.string(), "' (vocabulary ", info.vocab_size,
                   ") were made with different tokenizers; prepare them again with one of them");
  }
  return ShardSet(std::move(shards));
}

std::int64_t ShardSet::documents() const noexcept {
  std::int64_t sum = 0;
  for (const ShardReader& shard : shards_) sum += shard.info().documents;
  return sum;
}

std::vector<std::int64_t> ShardSet::token_counts() const {
  std::vector<std::int64_t> sum(static_cast<std::size_t>(vocab_size()));
  for (const ShardReader& shard : shards_) {
    const std::vector<std::int64_t> counts = shard.token_counts();
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += counts[i];
  }
  return sum;
}

std::vector<std::int64_t> ShardSet::document_offsets() const {
  std::vector<std::int64_t> offsets{0};
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    const std::vector<std::int64_t> local = shards_[i].document_offsets();
    for (std::size_t j = 1; j < local.size(); ++j) offsets.push_back(starts_[i] + local[j]);
  }
  return offsets;
}

std::string ShardSet::digest() const {
  Sha256 digest;
  for (const ShardReader& shard : shards_) digest.update(shard.info().content_digest);
  return digest.hex();
}

std::vector<ShardInfo> ShardSet::infos() const {
  std::vector<ShardInfo> infos;
  for (const ShardReader& shard : shards_) infos.push_back(shard.info());
  return infos;
}

void ShardSet::read(std::int64_t first, std::span<std::int64_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  KUMIKO_EXPECTS(first >= 0 && first <= tokens() - count, DataError, "tokens ", first, " to ", first + count,
                 " are outside the stream of ", tokens());
  auto shard = static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end() - 1, first) -
                                        starts_.begin()) -
               1;
  while (!out.empty()) {
    const std::int64_t here = std::min(starts_[shard + 1] - first, static_cast<std::int64_t>(out.size()));
    shards_[shard].read(first - starts_[shard], out.first(static_cast<std::size_t>(here)));
    out = out.subspan(static_cast<std::size_t>(here));
    first += here;
    ++shard;
  }
}

double unigram_perplexity(std::span<const std::int64_t> counts, std::span<const std::int64_t> targets) {
  KUMIKO_EXPECTS(counts.size() == targets.size(), ShapeError, "counts of ", counts.size(), " and ",
                 targets.size(), " ids do not belong together");
  double total = 0;
  for (const std::int64_t count : counts) total += static_cast<double>(count) + 1;
  double sum = 0;
  double seen = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    sum -= static_cast<double>(targets[i]) * std::log((static_cast<double>(counts[i]) + 1) / total);
    seen += static_cast<double>(targets[i]);
  }
  KUMIKO_EXPECTS(seen > 0, DataError, "there are no target tokens to take a perplexity of");
  return std::exp(sum / seen);
}

}  // namespace kumiko::data
