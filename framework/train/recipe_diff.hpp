// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kumiko {

struct RecipeDifference {
  std::string key;     // "train.steps"
  std::string before;  // "" where the key is absent
  std::string after;
};

// Keys whose values differ between two resolved recipes (as ConfigNode::to_yaml writes them), in the order of
// `before`.
std::vector<RecipeDifference> compare_recipes(std::string_view before, std::string_view after);

// Keys a resume may change because they touch no number of the training: log.*, checkpoint.*, eval.*, comm.*,
// output_dir, train.threads, train.device.
bool is_harmless(std::string_view key);

// Throws UsageError with one line a key when `current` differs from `saved` in a key that is neither harmless
// nor in `allowed` (keys or blocks: "optimizer" allows "optimizer.lr"). Returns the allowed differences, for
// a message.
std::vector<RecipeDifference> check_resumed_recipe(std::string_view saved, std::string_view current,
                                                   std::span<const std::string> allowed = {});

}  // namespace kumiko
