// SPDX-License-Identifier: Apache-2.0
#include "framework/train/loss_scaler.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::MemoryState;
using test::Rig;
using test::RigOptions;

TEST(LossScaler, IsOneAndStaysWhereDisabled) {
  LossScaler scaler(false);
  EXPECT_FALSE(scaler.enabled());
  for (int i = 0; i < 5000; ++i) {
    EXPECT_FALSE(scaler.update(i % 3 != 0));
    ASSERT_EQ(scaler.scale(), 1.0);
  }
}

TEST(LossScaler, HalvesDownToOneAndThenExplainsNothing) {
  LossScaler scaler(true);
  for (double scale = 65536.0; scale > 1.0; scale /= 2.0) {
    ASSERT_EQ(scaler.scale(), scale);
    EXPECT_TRUE(scaler.update(false));
  }
  EXPECT_EQ(scaler.scale(), 1.0);
  EXPECT_FALSE(scaler.update(false));
  EXPECT_EQ(scaler.scale(), 1.0);
}

TEST(LossScaler, DoublesAfterTwoThousandGoodStepsInARow) {
  LossScaler scaler(true);
  for (int i = 0; i < 1999; ++i) EXPECT_FALSE(scaler.update(true));
  EXPECT_EQ(scaler.scale(), 65536.0);
  EXPECT_TRUE(scaler.update(false));  // the streak begins anew
  for (int i = 0; i < 1999; ++i) scaler.update(true);
  EXPECT_EQ(scaler.scale(), 32768.0);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 65536.0);
}

TEST(LossScaler, GoesOnWhereItWasSaved) {
  LossScaler scaler(true);
  scaler.update(false);
  for (int i = 0; i < 1500; ++i) scaler.update(true);
  MemoryState saved;
  scaler.save(saved);
  LossScaler resumed(true);
  resumed.load(saved);
  EXPECT_EQ(resumed.scale(), 32768.0);
  for (int i = 0; i < 499; ++i) resumed.update(true);
  EXPECT_EQ(resumed.scale(), 32768.0);
  resumed.update(true);
  EXPECT_EQ(resumed.scale(), 65536.0);
}

RigOptions fp16(const char* method = "full") {
  RigOptions options{.method = method};
  options.train.precision = Precision::fp16;
  options.model.init_std = 0.05;
  return options;
}

class Fp16Training : public ::testing::TestWithParam<const char*> {};

TEST_P(Fp16Training, LowersTheLossNearlyAsFp32Does) {
  const auto batches = [](std::int64_t) { return test::four_micro_batches(0); };
  RigOptions options = fp16(GetParam());
  if (options.method != "full") options.method_yaml = "{rank: 8, schedule: {kind: static, tau: 9}}";
  Rig half(options, batches);
  options.train.precision = Precision::fp32;
  Rig single(options, batches);
  const auto a = half.steps(30);
  const auto b = single.steps(30);
  int skipped = 0;
  for (const auto& report : a) skipped += report.skipped ? 1 : 0;
  EXPECT_LT(a.back().loss, 0.5 * a.front().loss);
  EXPECT_NEAR(a.front().loss, b.front().loss, 0.005 * b.front().loss);
  EXPECT_LT(skipped, 4);
  EXPECT_EQ(half.run.method->merges(), single.run.method->merges());
  EXPECT_GT(half.state().reals.at("loss_scaler/scale"), 1.0);
}

INSTANTIATE_TEST_SUITE_P(Methods, Fp16Training, ::testing::Values("full", "loqt"),
                         [](const auto& info) { return info.param; });

// One target takes the whole scale: 65536 (p - 1) is near the largest fp16 number, and its way back through
// the head beyond it.
data::Batch overflowing() { return test::padded_batch({1}, 8); }

TEST(Fp16Overflow, SkipsTheStepAndHalvesTheScale) {
  RigOptions options = fp16();
  options.model.init_std = 0.5;
  options.train.max_non_finite_steps = 1;  // an overflow that the scale explains is no divergence
  Rig rig(options, [](std::int64_t step) {
    return step < 1 ? test::Batches{overflowing()} : test::four_micro_batches(step);
  });
  const auto before = rig.state();
  const StepReport first = rig.trainer.step();
  EXPECT_TRUE(first.skipped);
  EXPECT_TRUE(std::isfinite(first.loss));
  const auto after = rig.state();
  test::expect_same_state(after, before, /*with_counters=*/false);
  EXPECT_EQ(after.reals.at("loss_scaler/scale"), 32768.0);
  EXPECT_EQ(after.integers.at("trainer/non_finite_steps"), 0);
}

TEST(Fp16Overflow, GoesAwayAsTheScaleFalls) {
  RigOptions options = fp16();
  options.model.init_std = 0.5;
  options.train.max_non_finite_steps = 1;
  Rig rig(options, [](std::int64_t) { return test::Batches{overflowing()}; });
  double scale = 65536.0;
  while (rig.trainer.step().skipped) {
    scale /= 2.0;
    ASSERT_GE(scale, 1.0);
    ASSERT_EQ(rig.state().reals.at("loss_scaler/scale"), scale);
  }
  EXPECT_LT(scale, 65536.0);
  EXPECT_EQ(rig.state().tensors.at("optimizer/model.norm.weight/step").item<float>(), 1.0F);
}

// Gradients reach the optimizer without the scale: a saved run in fp16 goes on with it.
TEST(Fp16Gradients, ArriveUnscaledAndResumeBitForBit) {
  Rig half(fp16());
  Rig single([] {
    RigOptions options = fp16();
    options.train.precision = Precision::fp32;
    return options;
  }());
  const double expected = single.trainer.step().grad_norm;
  EXPECT_NEAR(half.trainer.step().grad_norm, expected, 0.01 * expected);
  half.steps(2);
  Rig resumed(fp16());
  resumed.trainer.load(half.state());
  half.steps(3);
  resumed.steps(3);
  test::expect_same_state(resumed.state(), half.state());
}

}  // namespace
}  // namespace kumiko
