// SPDX-License-Identifier: Apache-2.0
#include "framework/train/recipe_diff.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

constexpr std::array<std::string_view, 7> kHarmless{"log",        "checkpoint",    "eval",        "comm",
                                                    "output_dir", "train.threads", "train.device"};

bool is_within(std::string_view key, std::string_view block) {
  return key == block || (key.starts_with(block) && key.size() > block.size() && key[block.size()] == '.');
}

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// Where the colon after a mapping's key is; quoted keys do not occur in recipes.
std::size_t colon_of(std::string_view line) {
  const auto colon = line.find(':');
  if (colon == std::string_view::npos || line.starts_with('"') || line.starts_with('\''))
    return std::string_view::npos;
  return colon + 1 == line.size() || line[colon + 1] == ' ' ? colon : std::string_view::npos;
}

using Leaves = std::vector<std::pair<std::string, std::string>>;

// Block mappings become dotted keys; anything else (list items, continued lines) joins the value of the key
// above it.
Leaves flatten(std::string_view yaml) {
  Leaves leaves;
  std::vector<std::pair<std::size_t, std::string>> blocks;  // indentation and dotted path
  while (!yaml.empty()) {
    const auto end = std::min(yaml.find('\n'), yaml.size());
    const std::string_view line = yaml.substr(0, end);
    yaml.remove_prefix(std::min(end + 1, yaml.size()));
    const std::string_view content = trim(line);
    if (content.empty() || content.starts_with('#')) continue;
    const auto colon = content.starts_with('-') ? std::string_view::npos : colon_of(content);
    if (colon == std::string_view::npos) {
      if (leaves.empty()) leaves.emplace_back("", "");
      leaves.back().second += (leaves.back().second.empty() ? "" : " ") + std::string(content);
      continue;
    }
    const std::size_t indent = line.find_first_not_of(' ');
    while (!blocks.empty() && blocks.back().first >= indent) blocks.pop_back();
    const std::string key =
        (blocks.empty() ? "" : blocks.back().second + ".") + std::string(content.substr(0, colon));
    blocks.emplace_back(indent, key);
    leaves.emplace_back(key, trim(content.substr(colon + 1)));
  }
  return leaves;
}

}  // namespace

std::vector<RecipeDifference> compare_recipes(std::string_view before, std::string_view after) {
  const Leaves old_leaves = flatten(before);
  const Leaves new_leaves = flatten(after);
  const std::map<std::string, std::string> old_values(old_leaves.begin(), old_leaves.end());
  const std::map<std::string, std::string> new_values(new_leaves.begin(), new_leaves.end());
  std::vector<RecipeDifference> differences;
  for (const auto& [key, value] : old_leaves) {
    const auto found = new_values.find(key);
    if (found == new_values.end()) {
      if (!value.empty()) differences.push_back({key, value, ""});
    } else if (found->second != value) {
      differences.push_back({key, value, found->second});
    }
  }
  for (const auto& [key, value] : new_leaves) {
    if (!old_values.contains(key) && !value.empty()) differences.push_back({key, "", value});
  }
  return differences;
}

bool is_harmless(std::string_view key) {
  return std::any_of(kHarmless.begin(), kHarmless.end(),
                     [&](std::string_view block) { return is_within(key, block); });
}

std::vector<RecipeDifference> check_resumed_recipe(std::string_view saved, std::string_view current,
                                                   std::span<const std::string> allowed) {
  std::vector<RecipeDifference> accepted;
  std::string refused;
  std::string first;
  for (auto& difference : compare_recipes(saved, current)) {
    const bool named = std::any_of(allowed.begin(), allowed.end(),
                                   [&](const std::string& key) { return is_within(difference.key, key); });
    if (named || is_harmless(difference.key)) {
      accepted.push_back(std::move(difference));
      continue;
    }
    if (first.empty()) first = difference.key;
    refused +=
        concat("\n  ", difference.key, ": ", difference.before.empty() ? "(absent)" : difference.before,
               " -> ", difference.after.empty() ? "(absent)" : difference.after);
  }
  KUMIKO_EXPECTS(refused.empty(), UsageError, "the recipe differs from that of the checkpoint:", refused,
                 "\nundo the change, choose another output_dir for a new run, or pass --allow-changes ",
                 first);
  return accepted;
}

}  // namespace kumiko
