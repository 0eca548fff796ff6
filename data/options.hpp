// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace kumiko {
class ConfigNode;
}

namespace kumiko::data {

// packed: samples of T+1 consecutive tokens of one stream; padded: one document a sample; bucketed: padded,
// with documents of like length together.
enum class Batching { packed, padded, bucketed };

// The recipe's block `data`.
struct DataOptions {
  std::vector<std::string> train;       // shard files; *, ? and [..] are expanded
  std::vector<std::string> validation;  // may be empty
  std::int64_t sequence_length = 256;   // T
  Batching batching = Batching::packed;
  bool document_mask = false;  // attention stays within a document

  // Throws UsageError. Does not look for the files: expand_shards does.
  static DataOptions parse(const ConfigNode& node);
};

// The files that the patterns name, relative to the current folder: sorted within each pattern, each file
// once. Throws DataError that names a pattern without a match.
std::vector<std::filesystem::path> expand_shards(const std::vector<std::string>& patterns);

}  // namespace kumiko::data
