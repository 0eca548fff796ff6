// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/scale.hpp"

#include <gmock/gmock.h>

#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/lowrank/training_checks.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::Rig;
using kumiko::test::RigOptions;
using test::relative;
using test::Trained;
using ::testing::HasSubstr;

class ScaleTraining : public ::testing::TestWithParam<Trained> {};

// The paper's Algorithm 1 in fp64: outputs are rows of W and of the head, columns of the embedding.
void expect_steps_of_the_paper(RigOptions options, double beta, bool rms, const std::string& last_layer) {
  options.optimizer_yaml = "{weight_decay: 0.1}";
  Rig rig(options);
  at::Tensor momentum;
  for (int step = 0; step < 5; ++step) {
    const auto seen = test::observe_step(rig);
    for (const Parameter* p : rig.model.parameters()) {
      if (p->role == ParamRole::norm) continue;
      at::Tensor g = seen.gradient.at(p->name).to(at::kDouble);
      if (p->name == last_layer) {
        momentum = step == 0 ? (1 - beta) * g : beta * momentum + (1 - beta) * g;
        g = momentum;
      }
      const std::int64_t inputs = p->role == ParamRole::embedding ? 0 : 1;
      at::Tensor length = g.square().sum(inputs, true).sqrt();
      if (rms) length = length / std::sqrt(static_cast<double>(g.size(inputs)));
      const double decay = p->role == ParamRole::matrix ? 0.1 * seen.lr : 0.0;
      const at::Tensor wanted = -decay * seen.before.at(p->name) - seen.lr * at::where(length.gt(0.0), g / length, 0.0);
      EXPECT_LT(relative(seen.after.at(p->name) - seen.before.at(p->name), wanted), 2e-4) << p->name << ", step " << step;
    }
  }
}

TEST(ScaleMethod, MovesEachMatrixAsThePaperSays) {
  expect_steps_of_the_paper({.method = "scale"}, 0.9, true, "lm_head.weight");
  expect_steps_of_the_paper({.method = "scale", .method_yaml = "{beta: 0.5, length: euclidean}"}, 0.5, false, "lm_head.weight");
  RigOptions tied{.method = "scale"};
  tied.model.tie_embeddings = true;
  expect_steps_of_the_paper(tied, 0.9, true, "model.embed_tokens.weight");
}

TEST(ScaleMethod, LeavesTheVectorsToTheOptimizer) {
  Rig scale({.method = "scale"}), full({.method = "full"});
  scale.trainer.step();
  full.trainer.step();
  const auto got = test::dense_values(scale), expected = test::dense_values(full);
  for (const Parameter* p : scale.model.parameters()) {
    EXPECT_EQ(at::equal(got.at(p->name), expected.at(p->name)), p->role == ParamRole::norm) << p->name;
  }
}

TEST(ScaleMethod, KeepsNoStateButTheHeadsMomentumAndTheVectors) {
  Rig rig({.method = "scale"});
  const std::int64_t vectors = 5 * 4 * (2 * 32 + 1);
  EXPECT_EQ(rig.run.optimizer->state_nbytes(), 4 * 61 * 32 + vectors);
  Rig plain({.method = "scale", .method_yaml = "{beta: 0}"});
  EXPECT_EQ(plain.run.optimizer->state_nbytes(), vectors);
}

TEST_P(ScaleTraining, ResumesBitForBit) { test::expect_resumes_bit_for_bit(GetParam()); }

TEST_P(ScaleTraining, HoldsWhatItPlans) { test::expect_plan_is_what_is_held(GetParam()); }

TEST_P(ScaleTraining, IsTheSameOnTwoRanks) {
  test::expect_ranks_change_nothing(GetParam(), false);
  test::expect_ranks_change_nothing(GetParam(), true);
}

TEST_P(ScaleTraining, IsTheSameWithAccumulationAndUpdatesByLayer) {
  test::expect_accumulation_changes_nothing(GetParam(), false);
  test::expect_accumulation_changes_nothing(GetParam(), true);
  test::expect_updates_by_layer_change_nothing(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Weights, ScaleTraining,
                         ::testing::Values(Trained{"dense", "scale", ""},
                                           Trained{"int8", "scale", "{quantization: {weights: int8, rounding: stochastic}}", 1e-2}),
                         [](const auto& info) { return info.param.name; });

TEST(ScaleRecipe, RefusesBadKeys) {
  const auto refusal = [](const char* yaml) {
    return test::message_of<UsageError>([&] {
      const auto node = ConfigNode::parse_text(yaml, "r.yaml");
      ScaleOptions::parse(node);
      node.finish();
    });
  };
  EXPECT_EQ(refusal("{beta: 0.8, length: euclidean, targets: mlp, quantization: {weights: nf4}}"), "");
  EXPECT_THAT(refusal("{beta: 1.0}"), HasSubstr("r.yaml:1:8: beta"));
  EXPECT_THAT(refusal("{beta: -0.1}"), HasSubstr("beta"));
  EXPECT_THAT(refusal("{length: max}"), HasSubstr("rms, euclidean"));
  EXPECT_THAT(refusal("{targets: head}"), HasSubstr("unknown target 'head'"));
  EXPECT_THAT(refusal("{quantization: {weights: int9}}"), HasSubstr("quantization.weights"));
  EXPECT_THAT(refusal("{quantization: {basis: nf4}}"), HasSubstr("quantization.basis"));
  EXPECT_THAT(refusal("{momentum: 0.9}"), HasSubstr("momentum"));
}

}  // namespace
}  // namespace kumiko::lowrank
