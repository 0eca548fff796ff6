// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/splits.hpp"

#include "data/shard_reader.hpp"
#include "framework/core/error.hpp"

namespace kumiko::tools {
namespace {

namespace fs = std::filesystem;

bool are_alike(const fs::path& a, const fs::path& b) {
  if (fs::equivalent(a, b)) return true;
  if (fs::file_size(a) != fs::file_size(b)) return false;
  return data::ShardReader(a).info().content_digest == data::ShardReader(b).info().content_digest;
}

void require_disjoint(const Split& a, const Split& b, const std::string& who) {
  for (const fs::path& first : a.shards) {
    for (const fs::path& second : b.shards) {
      KUMIKO_EXPECTS(!are_alike(first, second), UsageError, who, ": ", a.name, " and ", b.name, " share tokens: ", first.string(),
                     " and ", second.string(), first == second ? " are one file" : " hold the same",
                     "; a perplexity means something only on text that nothing was learnt or chosen on, give each split its own shards");
    }
  }
}

}  // namespace

void require_disjoint(const std::vector<Split>& splits, const std::string& who) {
  for (std::size_t i = 0; i < splits.size(); ++i) {
    for (std::size_t j = i + 1; j < splits.size(); ++j) require_disjoint(splits[i], splits[j], who);
  }
}

}  // namespace kumiko::tools
