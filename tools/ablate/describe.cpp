// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/describe.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "framework/core/config_tree.hpp"
#include "framework/core/error.hpp"
#include "framework/core/words.hpp"
#include "framework/train/recipe_diff.hpp"
#include "tools/ablate/merge.hpp"

namespace kumiko::tools {
namespace {

// Keys in which two runs must agree to be compared, unless they are what is compared.
bool is_common_ground(const std::string& key) {
  constexpr std::array<std::string_view, 7> kKeys = {
      "train.steps", "train.global_batch_size", "eval.tokens",       "data.sequence_length",
      "data.train",  "data.batching",           "data.document_mask"};
  return key.starts_with("model.") || std::ranges::find(kKeys, key) != kKeys.end();
}

std::string scalar_at(const ConfigTree& tree, std::string_view key) {
  const ConfigTree* value = find_value(tree, key);
  return value == nullptr ? "" : value->scalar;
}

std::string join_set(const std::set<std::string>& words) {
  const std::vector<std::string> list(words.begin(), words.end());
  return list.empty() ? "unknown" : join_words(list);
}

// Digests of shards are compared among runs that name the same shards.
bool differ_within(const std::map<std::string, std::set<std::string>>& digests) {
  return std::ranges::any_of(digests, [](const auto& entry) { return entry.second.size() > 1; });
}

void remark_data(const Report& report, std::vector<std::string>& remarks) {
  const std::vector<std::string> shards = measured_on(report);
  if (shards.size() > 1)
    remarks.push_back(concat("perplexities were measured on different shards, ", join_words(shards),
                             ": they do not compare"));
  std::map<std::string, std::set<std::string>> trained, measured;
  for (const VariantReport& variant : report.variants) {
    const ConfigTree recipe = parse_config_tree(variant.recipe, "recipe");
    const ConfigTree* patterns = find_value(recipe, "data.train");
    for (const RunResult& run : variant.runs) {
      const std::string& digest = run.evaluated ? run.evaluated_digest : run.validation_digest;
      if (!run.train_digest.empty())
        trained[patterns == nullptr ? "" : to_flow_yaml(*patterns)].insert(run.train_digest);
      if (!digest.empty()) measured[variant.measured_on].insert(digest);
    }
  }
  if (differ_within(trained))
    remarks.push_back("the training shards were made anew between runs: they trained on different tokens");
  if (differ_within(measured))
    remarks.push_back("the validation shards were made anew between runs: perplexities were measured on different tokens");
}

}  // namespace

std::vector<std::string> measured_on(const Report& report) {
  std::vector<std::string> shards;
  for (const VariantReport& variant : report.variants) {
    if (!variant.measured_on.empty() && std::ranges::find(shards, variant.measured_on) == shards.end())
      shards.push_back(variant.measured_on);
  }
  return shards;
}

std::string join_patterns(const std::vector<std::string>& patterns) {
  std::string text;
  for (const auto& pattern : patterns) text += (text.empty() ? "" : " ") + pattern;
  return text;
}

std::string learning_rate_of(const std::string& recipe) {
  if (recipe.empty()) return "";
  try {
    const ConfigTree tree = parse_config_tree(recipe, "recipe");
    const std::string scale = scalar_at(tree, "optimizer.lr_scale.matrices");
    return "lr " + scalar_at(tree, "optimizer.lr") +
           (scale.empty() || scale == "1.0" ? "" : ", matrices " + scale);
  } catch (const UsageError&) {  // a damaged recipe.yaml
    return "";
  }
}

std::vector<std::string> fairness_remarks(const Report& report, const std::vector<std::size_t>& tried) {
  std::vector<std::string> remarks;
  const auto baseline = std::ranges::find(report.variants, report.baseline, &VariantReport::name);
  for (const VariantReport& variant : report.variants) {
    if (baseline == report.variants.end() || variant.recipe.empty() || baseline->recipe.empty()) continue;
    std::vector<std::string> keys;
    for (const auto& difference : compare_recipes(baseline->recipe, variant.recipe)) {
      if (is_common_ground(difference.key)) keys.push_back(difference.key);
    }
    if (!keys.empty())
      remarks.push_back(concat(variant.name, " differs from ", report.baseline, " in ", join_words(keys),
                               ": not the same task"));
  }
  remark_data(report, remarks);
  if (!tried.empty() && report.variants.size() > 1) {
    const auto [fewest, most] = std::ranges::minmax_element(tried);
    const auto name = [&](auto at) {
      return report.variants[static_cast<std::size_t>(at - tried.begin())].name;
    };
    if (*most == 1) {
      remarks.push_back(
          "the learning rate was not swept: a variant may look worse only because the rate given suits it "
          "less");
    } else if (*fewest != *most) {
      remarks.push_back(concat("not tuned alike: ", *most, " learning rates were tried for ", name(most),
                               ", ", *fewest, " for ", name(fewest)));
    }
  }
  for (const VariantReport& variant : report.variants) {
    if (!variant.edges.empty()) {
      remarks.push_back(concat(variant.name, ": the best ", join_words(variant.edges),
                               " is the first or last one tried; a better one may lie outside"));
    }
  }
  std::set<std::string> builds;
  for (const VariantReport& variant : report.variants) {
    for (const RunResult& run : variant.runs) {
      if (!run.build.empty()) builds.insert(run.build);
    }
  }
  if (builds.size() > 1)
    remarks.push_back(concat("the runs were made by ", builds.size(), " different builds of Kumiko"));
  const bool single =
      std::ranges::all_of(report.variants, [](const VariantReport& variant) { return variant.planned <= 1; });
  if (single) remarks.push_back("one seed: differences have no confidence interval");
  return remarks;
}

std::vector<std::pair<std::string, std::string>> facts_of(const Report& report) {
  std::set<std::string> versions, machines, days;
  for (const VariantReport& variant : report.variants) {
    for (const RunResult& run : variant.runs) {
      if (!run.version.empty()) versions.insert(run.version);
      if (!run.machine.empty()) machines.insert(run.machine);
      if (run.finished_at.size() >= 10) days.insert(run.finished_at.substr(0, 10));
    }
  }
  std::string date = days.empty() ? "unknown" : *days.begin();
  if (days.size() > 1) date += " to " + *days.rbegin();
  return {{"version", join_set(versions)}, {"machine", join_set(machines)}, {"runs finished", date}};
}

}  // namespace kumiko::tools
