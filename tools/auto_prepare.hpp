// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/options.hpp"
#include "framework/core/config.hpp"

namespace kumiko::tools {

// The recipe's block `data.prepare`: how to make the shards of data.train and data.validation when none are there.
struct AutoPrepare {
  std::vector<std::string> inputs;
  std::vector<std::string> suffixes;
  std::int64_t vocab_size = 2048;
  double validation = 0.05;
  double selection = 0.0;     // of the documents, kept for choosing hyper-parameters: select-*.h5
  std::int64_t max_bytes = 0;

  static std::optional<AutoPrepare> parse(const ConfigNode& data);
};

// No file matches data.train.
bool shards_missing(const data::DataOptions& data);

// Trains a tokenizer and writes the shards into the folder of the first data.train pattern, unless that matches files. Waits for
// another command that is making them. Throws DataError when that folder holds other shards.
void prepare_missing_shards(const AutoPrepare& options, const data::DataOptions& data);

}  // namespace kumiko::tools
