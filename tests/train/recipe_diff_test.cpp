// SPDX-License-Identifier: Apache-2.0
#include "framework/train/recipe_diff.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::vector<std::string> to_texts(const std::vector<RecipeDifference>& differences) {
  std::vector<std::string> texts;
  for (const auto& one : differences) texts.push_back(one.key + ": " + one.before + " -> " + one.after);
  return texts;
}

constexpr std::string_view kRecipe =
    "model:\n  preset: llama-9m\nmethod:\n  name: loqt\n  basis:\n    solver: svd\n    warm_start: true\n"
    "  targets: [attention, mlp]\ntrain:\n  steps: 100\n  threads: 2\nlog:\n  every: 10\noutput_dir: "
    "runs/a:b\n";

std::string with(const std::string& from, const std::string& to) {
  std::string text(kRecipe);
  text.replace(text.find(from), from.size(), to);
  return text;
}

TEST(RecipeDiff, FindsNothingBetweenEqualRecipes) {
  EXPECT_THAT(compare_recipes(kRecipe, kRecipe), IsEmpty());
}

TEST(RecipeDiff, NamesNestedKeysListsAndAbsentOnes) {
  EXPECT_THAT(to_texts(compare_recipes(kRecipe, with("solver: svd", "solver: eigh"))),
              ElementsAre("method.basis.solver: svd -> eigh"));
  EXPECT_THAT(to_texts(compare_recipes(kRecipe, with("[attention, mlp]", "[mlp]"))),
              ElementsAre("method.targets: [attention, mlp] -> [mlp]"));
  EXPECT_THAT(to_texts(compare_recipes(kRecipe, with("  steps: 100\n", ""))),
              ElementsAre("train.steps: 100 -> "));
  EXPECT_THAT(to_texts(compare_recipes(kRecipe, with("threads: 2", "threads: 2\n  seed: 1"))),
              ElementsAre("train.seed:  -> 1"));
  EXPECT_THAT(to_texts(compare_recipes("a:\n  - 1\n  - 2\n", "a:\n  - 1\n  - 3\n")),
              ElementsAre("a: - 1 - 2 -> - 1 - 3"));
}

TEST(RecipeDiff, TellsEqualNamesInDifferentBlocksApart) {
  EXPECT_THAT(
      to_texts(compare_recipes("a:\n  every: 1\nb:\n  every: 2\n", "a:\n  every: 1\nb:\n  every: 3\n")),
      ElementsAre("b.every: 2 -> 3"));
}

TEST(RecipeDiff, ReadsWhatTheConfigurationWrites) {
  const auto resolved = [](const std::string& yaml) {
    const auto root = ConfigNode::parse_text(yaml, "test.yaml");
    const auto method = root.child("method");
    method.integer("rank", 64, {});
    method.texts("targets", {"attention", "mlp"});
    method.child("basis").text("solver", "svd");
    root.text("output_dir", "runs/x");
    root.finish();
    return root.to_yaml();
  };

  const auto differences = compare_recipes(resolved("method: {rank: 32}"),
                                           resolved("method: {targets: [mlp], basis: {solver: eigh}}"));

  std::vector<std::string> keys;
  for (const auto& one : differences) keys.push_back(one.key);
  EXPECT_THAT(keys, ElementsAre("method.rank", "method.targets", "method.basis.solver"));
}

TEST(RecipeDiff, AllowsHarmlessKeys) {
  for (const char* key : {"log.every", "checkpoint.keep", "eval.every", "comm.wire", "output_dir",
                          "train.threads", "train.device"}) {
    EXPECT_TRUE(is_harmless(key)) << key;
  }
  for (const char* key : {"train.steps", "train.seed", "logs.every", "train", "output_dirs", "optimizer.lr",
                          "model.preset", "log_"}) {
    EXPECT_FALSE(is_harmless(key)) << key;
  }
  EXPECT_THAT(to_texts(check_resumed_recipe(kRecipe, with("threads: 2", "threads: 1"))),
              ElementsAre("train.threads: 2 -> 1"));
}

TEST(RecipeDiff, RefusesOthersWithADiffUnlessTheyAreNamed) {
  std::string changed = with("steps: 100", "steps: 200");
  changed.replace(changed.find("every: 10"), 9, "every: 20");
  const std::vector<std::string> named{"train.steps"};
  const std::vector<std::string> block{"train"};
  const std::vector<std::string> other{"train.step"};

  std::string message;
  try {
    check_resumed_recipe(kRecipe, changed);
  } catch (const UsageError& error) {
    message = error.what();
  }

  EXPECT_THAT(message, HasSubstr("train.steps: 100 -> 200"));
  EXPECT_THAT(message, HasSubstr("--allow-changes train.steps"));
  EXPECT_THAT(message, Not(HasSubstr("log.every")));
  EXPECT_EQ(check_resumed_recipe(kRecipe, changed, named).size(), 2u);
  EXPECT_EQ(check_resumed_recipe(kRecipe, changed, block).size(), 2u);
  EXPECT_THROW(check_resumed_recipe(kRecipe, changed, other), UsageError);
}

}  // namespace
}  // namespace kumiko
