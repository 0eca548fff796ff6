// SPDX-License-Identifier: Apache-2.0
#include "framework/train/recipe.hpp"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

using ::testing::HasSubstr;

constexpr const char* kRecipe = R"(model: {preset: 9m}
data: {train: a.h5}
method: {name: full}
train:
  steps: 100
  global_batch_size: 24
)";

Recipe parsed(const std::vector<std::string>& overrides = {}) {
  return Recipe::parse(ConfigNode::parse_text(kRecipe, "r.yaml", overrides));
}

std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(Recipe, HasDefaultsInEveryBlock) {
  const Recipe recipe = parsed();
  EXPECT_EQ(recipe.method_name, "full");
  EXPECT_EQ(recipe.model.preset, "llama-9m");
  EXPECT_EQ(recipe.data.train, std::vector<std::string>{"a.h5"});
  EXPECT_EQ(recipe.data.sequence_length, 256);
  EXPECT_EQ(recipe.optimizer.name, "adamw");
  EXPECT_EQ(recipe.lr_schedule.kind, LrKind::cosine);
  EXPECT_EQ(recipe.train.global_batch_size, 24);
  EXPECT_EQ(recipe.train.steps, 100);
  EXPECT_EQ(recipe.checkpoint.every, 1000);
  EXPECT_EQ(recipe.checkpoint.resume, Resume::automatic);
  EXPECT_EQ(recipe.eval.every, 1000);
  EXPECT_EQ(recipe.log.every, 10);
  EXPECT_EQ(recipe.comm.backend, dist::Backend::automatic);
  EXPECT_EQ(recipe.output_dir, "runs/run");
  recipe.node.finish();  // nothing was left unread
}

TEST(Recipe, TakesOverrides) {
  const Recipe recipe =
      parsed({"train.steps=7", "output_dir=elsewhere", "lr_schedule.kind=constant", "eval.tokens=5"});
  EXPECT_EQ(recipe.train.steps, 7);
  EXPECT_EQ(recipe.output_dir, "elsewhere");
  EXPECT_EQ(recipe.lr_schedule.kind, LrKind::constant);
  EXPECT_EQ(recipe.eval.tokens, 5);
}

TEST(Recipe, ReadsItsOwnResolvedText) {
  const Recipe recipe = parsed({"train.seed=5", "train.precision=fp32"});
  const std::string resolved = recipe.node.to_yaml();
  const Recipe again = Recipe::parse(ConfigNode::parse_text(resolved, "resolved.yaml"));
  again.node.finish();
  EXPECT_EQ(again.node.to_yaml(), resolved);
  EXPECT_EQ(again.train.seed, 5U);
  EXPECT_EQ(again.train.precision, Precision::fp32);
}

TEST(Recipe, RefusesWhatItDoesNotKnowAtItsPlace) {
  const auto misspelt = refusal([] { parsed({"train.stesp=7"}).node.finish(); });
  EXPECT_THAT(misspelt, HasSubstr("train.stesp"));
  EXPECT_THAT(misspelt, HasSubstr("did you mean 'steps'"));
  EXPECT_THAT(refusal([] { parsed({"trian={steps: 3}"}).node.finish(); }), HasSubstr("trian"));
  EXPECT_THAT(refusal([] { parsed({"method.name=null"}); }), HasSubstr("method.name"));
  EXPECT_THAT(
      refusal([] {
        Recipe::parse(ConfigNode::parse_text("model: {preset: 9m}\nmethod: {name: full}\n", "r.yaml"));
      }),
      HasSubstr("data.train"));
  const auto place = refusal(
      [] { Recipe::parse(ConfigNode::parse_text(std::string(kRecipe) + "  precision: fp8\n", "r.yaml")); });
  EXPECT_THAT(place, HasSubstr("r.yaml:7:"));
  EXPECT_THAT(place, HasSubstr("train.precision"));
}

TEST(Recipe, RefusesSequencesBeyondTheModelsPositions) {
  const auto message = refusal([] { parsed({"data.sequence_length=300", "model.max_sequence_length=256"}); });
  EXPECT_THAT(message, HasSubstr("data.sequence_length"));
  EXPECT_THAT(message, HasSubstr("300 is above model.max_sequence_length 256"));
  EXPECT_EQ(refusal([] { parsed({"data.sequence_length=256", "model.max_sequence_length=256"}); }), "");
}

TEST(Recipe, RefusesAWarmupBeyondItsSteps) {
  EXPECT_THAT(refusal([] { parsed({"lr_schedule.warmup_steps=100"}); }),
              HasSubstr("lr_schedule.warmup_steps"));
  EXPECT_EQ(refusal([] { parsed({"lr_schedule.warmup_steps=99"}); }), "");
}

TEST(RecipeValidate, AcceptsRanksThatDivideTheBatch) {
  for (const int ranks : {1, 2, 3, 4, 6, 8, 12, 24})
    EXPECT_EQ(refusal([&] { parsed().validate(ranks); }), "") << ranks;
  EXPECT_EQ(refusal([] { parsed({"train.micro_batch_size=6"}).validate(4); }), "");
  for (const int ranks : {1, 2, 4, 8})
    EXPECT_EQ(refusal([&] { parsed({"train.deterministic=true"}).validate(ranks); }), "") << ranks;
}

TEST(RecipeValidate, RefusesABatchThatRanksCannotShare) {
  const auto message = refusal([] { parsed().validate(5); });
  EXPECT_THAT(message, HasSubstr("r.yaml:6:"));
  EXPECT_THAT(message, HasSubstr("train.global_batch_size"));
  EXPECT_THAT(message, HasSubstr("24 is not divisible by 5 ranks"));
}

TEST(RecipeValidate, RefusesAMicroBatchThatDoesNotDivideTheShare) {
  const auto message = refusal([] { parsed({"train.micro_batch_size=8"}).validate(2); });
  EXPECT_THAT(message, HasSubstr("train.micro_batch_size"));
  EXPECT_THAT(message, HasSubstr("8 does not divide the 12 sequences of each of 2 ranks"));
  EXPECT_THAT(refusal([] { parsed({"train.micro_batch_size=48"}).validate(1); }),
              HasSubstr("48 does not divide the 24"));
}

TEST(RecipeValidate, RefusesUpdatesByLayerInATreeOfMicroBatches) {
  const auto recipe = [](const char* micro_batch) {
    return parsed({"train.deterministic=true", "train.per_layer_updates=true", micro_batch});
  };
  EXPECT_THAT(refusal([&] { recipe("train.micro_batch_size=6").validate(1); }), HasSubstr("train.per_layer_updates: cannot go with train.deterministic"));
  EXPECT_EQ(refusal([&] { recipe("train.micro_batch_size=24").validate(1); }), "");
}

TEST(RecipeValidate, RefusesDeterminismOnThreeRanks) {
  for (const int ranks : {3, 6, 12}) {
    const auto message = refusal([&] { parsed({"train.deterministic=true"}).validate(ranks); });
    EXPECT_THAT(message, HasSubstr("train.deterministic"));
    EXPECT_THAT(message, HasSubstr(concat("powers of two, not ", ranks)));
  }
}

struct Share {
  std::int64_t global;
  int ranks;
  std::int64_t length, expected;
};

class AutomaticMicroBatch : public ::testing::TestWithParam<Share> {};

TEST_P(AutomaticMicroBatch, IsTheLargestDivisorWithinTheTokens) {
  const Share& share = GetParam();
  EXPECT_EQ(automatic_micro_batch(share.global, share.ranks, share.length), share.expected);
}

INSTANTIATE_TEST_SUITE_P(Shares, AutomaticMicroBatch,
                         ::testing::Values(Share{512, 1, 256, 16},  // 16 x 256 = 4096
                                           Share{512, 1, 257, 8},   // 16 would have 4112
                                           Share{24, 1, 256, 12},   // 16 does not divide 24
                                           Share{24, 2, 128, 12}, Share{24, 4, 128, 6}, Share{7, 1, 1024, 1},
                                           Share{7, 1, 512, 7}, Share{2, 2, 64, 1},
                                           Share{8, 1, 8192, 1}),  // one is the least
                         [](const auto& info) { return "n" + std::to_string(info.index); });

}  // namespace
}  // namespace kumiko
