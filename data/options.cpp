// SPDX-License-Identifier: Apache-2.0
#include "data/options.hpp"

#include <algorithm>
#include <array>

#include <glob.h>

#include "data/shard_folder.hpp"
#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko::data {
namespace {

std::vector<std::string> expand(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> paths;
  if (status == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

DataOptions DataOptions::parse(const ConfigNode& node) {
  using Word = std::pair<std::string_view, Batching>;
  constexpr std::array<Word, 3> kBatching{Word{"packed", Batching::packed}, Word{"padded", Batching::padded},
                                          Word{"bucketed", Batching::bucketed}};
  DataOptions options;
  options.train = node.texts("train", {});
  if (options.train.empty())
    node.fail("train", "no training shards are named; make them with 'kumiko prepare'");
  options.validation = node.texts("validation", {});
  options.sequence_length =
      node.integer("sequence_length", options.sequence_length, {1, std::int64_t{1} << 20});
  options.batching = node.choice<Batching>("batching", options.batching, kBatching);
  options.document_mask = node.boolean("document_mask", options.document_mask);
  return options;
}

std::vector<std::filesystem::path> expand_shards(const std::vector<std::string>& patterns) {
  std::vector<std::filesystem::path> paths;
  for (const std::string& pattern : patterns) {
    const std::vector<std::string> found = expand(pattern);
    KUMIKO_EXPECTS(!found.empty(), DataError, "no shard matches '", pattern, "' in ",
                   std::filesystem::current_path().string(), "; make shards with 'kumiko prepare'");
    for (const std::string& path : found) {
      const auto folder = std::filesystem::path(path).parent_path();
      KUMIKO_EXPECTS(!is_being_published(folder), DataError, "the shards in '", folder.string(),
                     "' are being put in place, or were when the command that made them was killed; give that command again");
      if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.emplace_back(path);
    }
  }
  return paths;
}

}  // namespace kumiko::data
