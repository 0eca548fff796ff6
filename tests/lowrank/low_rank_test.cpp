// SPDX-License-Identifier: Apache-2.0
// W = B A: initial factors, training by independent arithmetic, and what the method owes the trainer.
#include "lowrank/methods/low_rank.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/lowrank/textbook_factors.hpp"
#include "tests/lowrank/training_checks.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::kTextbookLr;
using kumiko::test::kTextbookOptimizer;
using kumiko::test::Rig;
using kumiko::test::textbook_batch;
using kumiko::test::textbook_options;
using kumiko::test::TextbookFactors;
using kumiko::test::TextbookRig;
using test::normal;
using test::refusal;
using test::relative;
using test::Trained;
using ::testing::HasSubstr;

TEST(LowRankLinear, SpectralFactorsAreTheTruncatedSvdWithSharedSingularValues) {
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{30, 50}, {50, 30}}) {
    const at::Tensor initial = normal({out, in}, 2, 0.02);
    LowRankLinear linear({"layer", LinearKind::mlp, in, out}, 7, at::kFloat, at::kCPU);
    linear.approximate(initial);
    const auto [u, s, vh] = at::linalg_svd(initial.to(at::kDouble), false);
    const at::Tensor best = at::mm(u.narrow(1, 0, 7) * s.narrow(0, 0, 7), vh.narrow(0, 0, 7));
    EXPECT_LT(relative(linear.effective_weight(), best), 1e-6);
    const at::Tensor b = linear.factors().b().value, a = linear.factors().a().value;
    EXPECT_LT(relative(at::mm(b.t(), b), at::mm(a, a.t())), 1e-5);   // both S
    EXPECT_TRUE(b.gather(0, b.abs().argmax(0, true)).gt(0.0).all().item<bool>());
  }
}

TEST(LowRankLinear, SpectralFactorsOfAMatrixOfLowerRankAreFinite) {
  LowRankLinear linear({"layer", LinearKind::mlp, 12, 10}, 6, at::kFloat, at::kCPU);
  const at::Tensor initial = test::power_law(10, 12, 0.5, 3, 2);
  linear.approximate(initial);
  EXPECT_LT(relative(linear.effective_weight(), initial), 1e-5);
}

TEST(LowRankLinear, KaimingFactorsAreUniformByTheirFanIn) {
  LowRankLinear linear({"layer", LinearKind::mlp, 400, 100}, 25, at::kFloat, at::kCPU);
  linear.draw(1, 2);
  const double a = linear.factors().a().value.abs().max().item<double>();
  const double b = linear.factors().b().value.abs().max().item<double>();
  EXPECT_LE(a, 1.0 / 20.0);
  EXPECT_GT(a, 0.99 / 20.0);
  EXPECT_LE(b, 1.0 / 5.0);
  EXPECT_GT(b, 0.99 / 5.0);
  // Var(B A) = r / (9 in r)
  EXPECT_NEAR(linear.effective_weight().square().mean().item<double>() * 9.0 * 400.0, 1.0, 0.1);
}

class LowRankTraining : public ::testing::TestWithParam<const char*> {};

TEST_P(LowRankTraining, FollowsAutogradAndAdamWWrittenOut) {
  TextbookRig rig(textbook_options("low_rank", GetParam()));
  TextbookFactors textbook(rig.run, 1.0);
  for (std::int64_t step = 0; step < 20; ++step) {
    const double expected = textbook.step(textbook_batch(step), kTextbookLr);
    EXPECT_NEAR(rig.trainer.step().loss, expected, 1e-5) << "step " << step;
  }
  EXPECT_LT(textbook.distance(rig.run), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Recipes, LowRankTraining, ::testing::Values("{rank: 8}", "{rank: 8, init: spectral}"),
                         [](const auto& info) { return concat("n", info.index); });

class LowRankMethods : public ::testing::TestWithParam<Trained> {};

TEST_P(LowRankMethods, ResumeBitForBit) { test::expect_resumes_bit_for_bit(GetParam()); }

TEST_P(LowRankMethods, TrainOnRanksMicroBatchesAndByLayerAsAtOnce) {
  for (const bool per_layer : {false, true}) {
    test::expect_ranks_change_nothing(GetParam(), per_layer);
    test::expect_accumulation_changes_nothing(GetParam(), per_layer);
  }
  test::expect_updates_by_layer_change_nothing(GetParam());
  test::expect_plan_is_what_is_held(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Recipes, LowRankMethods,
                         ::testing::Values(Trained{"kaiming", "low_rank", "{rank: 8}", 1e-5, kTextbookOptimizer},
                                           Trained{"spectral", "low_rank", "{rank: 8, init: spectral}", 1e-5, kTextbookOptimizer},
                                           Trained{"mlp", "low_rank", "{rank: 8, targets: mlp}", 1e-5, kTextbookOptimizer}),
                         [](const auto& info) { return info.param.name; });

// Machines whose eigendecompositions differ in the last bits.
TEST(LowRank, RanksHoldTheSameFactorsAfterTheFirstStepWhereverTheyBegan) {
  std::array<kumiko::test::MemoryState, 2> states;
  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    const auto own = [&comm](std::int64_t) { return kumiko::test::Batches{test::sequences(true)[static_cast<std::size_t>(comm.rank())]}; };
    Rig rig({.method = "low_rank", .method_yaml = "{rank: 8, init: spectral}"}, own, &comm);
    for (Parameter* p : rig.run.model->parameters()) {
      if (comm.rank() == 1 && p->role == ParamRole::factor) p->value.mul_(1.0 + 1e-6);
    }
    rig.steps(3);
    states[static_cast<std::size_t>(comm.rank())] = rig.state();
  });
  kumiko::test::expect_same_state(states[1], states[0]);
}

TEST(LowRankRecipe, HasDefaultsAndRefusesEachBadKey) {
  const auto node = ConfigNode::parse_text("{}", "r.yaml");
  const auto options = LowRankOptions::parse(node, 512);
  EXPECT_EQ(options.rank, 128);
  EXPECT_EQ(options.init, LowRankInit::kaiming);
  EXPECT_EQ(options.factor_dtype, at::kFloat);
  const auto expect = [](const char* yaml, std::vector<const char*> says) {
    const std::string message = refusal("low_rank", yaml);
    for (const char* part : says) EXPECT_THAT(message, HasSubstr(part)) << yaml;
  };
  expect("{rank: 0}", {"rank", "0"});
  expect("{rank: 17}", {"method.rank 17", "k_proj", "at most 16"});
  expect("{init: svd}", {"init", "svd", "spectral"});
  expect("{factor: fp8}", {"factor", "fp8", "bf16"});
  expect("{targets: []}", {"targets", "empty"});
  expect("{alpha: 8}", {"alpha", "unknown"});
  expect("{quantization: {weights: nf4}}", {"quantization", "unknown"});
  EXPECT_EQ(refusal("low_rank", "{rank: 16, init: spectral, factor: bf16, targets: attention}"), "");
}

}  // namespace
}  // namespace kumiko::lowrank
