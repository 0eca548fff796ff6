// SPDX-License-Identifier: Apache-2.0
// One YAML file is one run.
#pragma once

#include <filesystem>
#include <string>

#include "data/options.hpp"
#include "dist/communicator.hpp"
#include "framework/core/config.hpp"
#include "framework/model/lr_schedule.hpp"
#include "framework/model/model_options.hpp"
#include "framework/model/optimizer.hpp"
#include "framework/train/checkpoint.hpp"
#include "framework/train/train_options.hpp"

namespace kumiko {

struct Recipe {
  ConfigNode node;                  // the whole tree: prints the resolved recipe
  ModelOptions model;
  data::DataOptions data;
  std::string method_name;
  ConfigNode method;                // read by the method itself
  OptimizerOptions optimizer;
  LrOptions lr_schedule;
  TrainOptions train;
  EvalOptions eval;
  dist::CommOptions comm;
  CheckpointPolicy checkpoint;
  LogOptions log;
  std::filesystem::path output_dir;

  // Reads all blocks but the method's; whoever builds the method calls node.finish() afterwards. Throws UsageError at the
  // place of what is wrong. Opens no other file.
  static Recipe parse(const ConfigNode& node);

  // Checks across blocks, once the number of ranks is known. Throws UsageError.
  void validate(int ranks) const;
};

// The micro-batch for `auto`: the largest divisor of a rank's share of the global batch with at most 4096 tokens.
std::int64_t automatic_micro_batch(std::int64_t global_batch_size, int ranks, std::int64_t sequence_length);

}  // namespace kumiko
