// SPDX-License-Identifier: Apache-2.0
// A sweep as runs: each a resolved recipe that has passed every check that needs no training.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "framework/core/config.hpp"
#include "tools/ablate/sweep.hpp"

namespace kumiko::tools {

struct PlannedRun {
  std::string variant;
  std::string point;
  std::int64_t seed = 0;
  std::filesystem::path folder;  // OUTPUT/runs/VARIANT/POINT/seed-N
  std::string recipe;            // resolved
};

// What the runs of a variant have in common.
struct PlannedVariant {
  const Variant* variant = nullptr;                // in the sweep
  std::string recipe;                              // resolved, of the first point and seed
  std::vector<std::string> validation, selection;  // shard patterns
  std::int64_t plan_bytes = 0;                     // of one run
  std::vector<PlannedRun> runs;                    // by point, then by seed
};

struct Plan {
  const Sweep* sweep = nullptr;
  bool chooses_lr = false;  // runs validate on the selection shards, and the chosen ones are evaluated again
  std::vector<PlannedVariant> variants;

  std::size_t run_count() const;
};

// The ids of a run's tokenizer, by its resolved block `data`; 0: the shards are not there and nothing says
// how to make them.
using Vocabulary = std::function<std::int64_t(const ConfigNode& data)>;

// Checks each variant at each point and seed as 'kumiko train' would. `threads` is for runs whose recipe
// names none. Throws UsageError at the line of the sweep or base recipe, with the variant's name.
Plan make_plan(const Sweep& sweep, const Vocabulary& vocabulary, std::int64_t threads);

// What the resolved recipes differ in, as "method.rank 64, optimizer.lr 0.01": what `other` has. Without
// folders, seeds, threads and data splits.
std::string describe_difference(const std::string& baseline, const std::string& other);

// Throws UsageError that names variant, key and remedy when a run of the plan was begun with another recipe.
void check_unchanged(const Plan& plan);

// The file beside a run's files that 'kumiko train' is given.
inline constexpr const char* kPlannedRecipe = "planned.yaml";

}  // namespace kumiko::tools
