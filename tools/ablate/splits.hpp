// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <filesystem>
#include <string>
#include <vector>

namespace kumiko::tools {

// The files of one split of the data.
struct Split {
  std::string name;  // "data.train"
  std::vector<std::filesystem::path> shards;

  auto operator<=>(const Split&) const = default;
};

// Throws UsageError that names both files, after `who`, when two splits share a file or hold two of equal content; DataError
// when a shard that has to be read for that is bad. Shards of different sizes are told apart without reading them.
void require_disjoint(const std::vector<Split>& splits, const std::string& who);

}  // namespace kumiko::tools
