// SPDX-License-Identifier: Apache-2.0
// Text to shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "data/documents.hpp"
#include "data/shard_folder.hpp"
#include "data/shard_format.hpp"

namespace kumiko::data {

struct PrepareOptions {
  DocumentOptions documents;
  std::filesystem::path tokenizer;         // a model of 'kumiko tokenizer train'
  std::filesystem::path output;            // folder for train-00000.h5 ..., val-00000.h5 ... and select-00000.h5 ...
  double validation_fraction = 0.01;       // of the documents, by their hash; in [0, 1)
  double selection_fraction = 0.0;         // besides: to choose hyper-parameters on; both together below 1
  std::int64_t shard_tokens = 64'000'000;  // a shard is closed by the document that reaches it
  std::int64_t max_bytes = 0;              // stop once this much distinct text is taken; 0: take all
  bool force = false;                      // replace the shards in `output`
};

struct PrepareProgress {
  std::int64_t file_bytes_read = 0;  // as on disk
  std::int64_t file_bytes_total = 0;
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::int64_t shards = 0;  // written so far
};

struct SplitSummary {
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::int64_t text_bytes = 0;
  std::vector<ShardInfo> shards;
};

struct PrepareSummary {
  std::int64_t files = 0;
  std::int64_t duplicates = 0;  // exact copies dropped, before the split
  std::int64_t skipped = 0;     // bad documents, with skip_invalid
  SplitSummary train;
  SplitSummary validation;
  SplitSummary selection;
};

// Streams the documents through the tokenizer into shards; memory holds a few MiB of text and the two open
// shards. The files depend on the documents, their order and the options only; `selection_fraction` takes documents from
// training and leaves validation as it is. The shards appear in `output`
// together at the end: a run that fails leaves what was there. `held`: the lock of `output` where the caller has it; otherwise one is
// taken for the call. Throws UsageError (options, folder not usable,
// shards there without `force`) and DataError (bad input, nothing for training, a shard that cannot be
// written).
PrepareSummary prepare(const PrepareOptions& options,
                       const std::function<void(const PrepareProgress&)>& progress = {},
                       const ShardFolderLock* held = nullptr);

}  // namespace kumiko::data
