// SPDX-License-Identifier: Apache-2.0
// What the report says about how the runs were made.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tools/ablate/report.hpp"

namespace kumiko::tools {

std::string join_patterns(const std::vector<std::string>& patterns);

// "lr 0.01, matrices 0.5" of a resolved recipe.
std::string learning_rate_of(const std::string& recipe);

// The shard patterns that the variants are measured on, each once, the first variant's first.
std::vector<std::string> measured_on(const Report& report);

// What makes the variants unlike in more than what they are meant to show: other data, model, steps or batch
// than the baseline's; other shards to measure on, or shards made anew between runs; learning rates swept unevenly or not at all; one seed. `tried`: learning rates a
// variant, in the order of report.variants.
std::vector<std::string> fairness_remarks(const Report& report, const std::vector<std::size_t>& tried);

// Version, machine and date of the runs.
std::vector<std::pair<std::string, std::string>> facts_of(const Report& report);

}  // namespace kumiko::tools
