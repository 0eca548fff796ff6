// SPDX-License-Identifier: Apache-2.0
#include "framework/train/recipe.hpp"

#include <algorithm>

#include "framework/core/error.hpp"

namespace kumiko {

Recipe Recipe::parse(const ConfigNode& node) {
  const ConfigNode method = node.child("method");
  Recipe recipe{node, ModelOptions::parse(node.child("model")), data::DataOptions::parse(node.child("data")), "", method};
  recipe.method_name = method.text("name");
  recipe.optimizer = OptimizerOptions::parse(node.child("optimizer"));
  recipe.lr_schedule = LrOptions::parse(node.child("lr_schedule"));
  recipe.train = TrainOptions::parse(node.child("train"));
  recipe.lr_schedule.check(recipe.train.steps, node.child("lr_schedule"));
  recipe.eval = EvalOptions::parse(node.child("eval"));
  recipe.comm = dist::CommOptions::parse(node.child("comm"));
  recipe.checkpoint = CheckpointPolicy::parse(node.child("checkpoint"));
  recipe.log = LogOptions::parse(node.child("log"));
  recipe.output_dir = node.text("output_dir", "runs/run");
  if (recipe.data.sequence_length > recipe.model.max_sequence_length) {
    node.child("data").fail("sequence_length", concat(recipe.data.sequence_length, " is above model.max_sequence_length ",
                                                      recipe.model.max_sequence_length));
  }
  return recipe;
}

void Recipe::validate(int ranks) const {
  const ConfigNode block = node.child("train");
  if (train.global_batch_size % ranks != 0) {
    block.fail("global_batch_size", concat(train.global_batch_size, " is not divisible by ", ranks, " ranks"));
  }
  const std::int64_t share = train.global_batch_size / ranks;
  if (train.micro_batch_size && share % *train.micro_batch_size != 0) {
    block.fail("micro_batch_size", concat(*train.micro_batch_size, " does not divide the ", share, " sequences of each of ", ranks,
                                          " ranks"));
  }
  if (train.per_layer_updates && train.deterministic && train.micro_batch_size && share > *train.micro_batch_size) {
    block.fail("per_layer_updates", concat("cannot go with train.deterministic and ", share / *train.micro_batch_size,
                                           " micro-batches: the tree that sums them ends after the backward pass; set train.micro_batch_size to ", share));
  }
  if (train.deterministic && (ranks & (ranks - 1)) != 0) {
    block.fail("deterministic", concat("sums are independent of the number of ranks only for powers of two, not ", ranks));
  }
}

std::int64_t automatic_micro_batch(std::int64_t global_batch_size, int ranks, std::int64_t sequence_length) {
  constexpr std::int64_t kTokens = 4096;
  const std::int64_t share = std::max<std::int64_t>(1, global_batch_size / ranks);
  std::int64_t best = 1;
  for (std::int64_t size = 1; size <= share && size * sequence_length <= kTokens; ++size) {
    if (share % size == 0) best = size;
  }
  return best;
}

}  // namespace kumiko
