// SPDX-License-Identifier: Apache-2.0
#include "framework/model/lr_schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "framework/core/error.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko {
namespace {

template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

LrOptions parse(const std::string& block, const std::vector<std::string>& overrides = {}) {
  const ConfigNode root = ConfigNode::parse_text("lr_schedule: " + block, "r.yaml", overrides);
  const LrOptions options = LrOptions::parse(root.child("lr_schedule"));
  root.finish();
  return options;
}

TEST(LrSchedule, CosineFollowsThePublishedRun) {
  const LrSchedule schedule({.kind = LrKind::cosine, .warmup_steps = 1000, .min_ratio = 0.1}, 0.01, 10000);

  EXPECT_EQ(schedule.at(0), 0.0);
  EXPECT_DOUBLE_EQ(schedule.at(1), 1e-5);
  EXPECT_DOUBLE_EQ(schedule.at(500), 0.005);
  EXPECT_DOUBLE_EQ(schedule.at(1000), 0.01);
  EXPECT_DOUBLE_EQ(schedule.at(5500), 0.0055);
  EXPECT_NEAR(schedule.at(9999), 0.00100000027, 5e-12);
  EXPECT_DOUBLE_EQ(schedule.at(10000), 0.001);
  EXPECT_DOUBLE_EQ(schedule.at(10001), 0.001);
  EXPECT_DOUBLE_EQ(schedule.at(1000000), 0.001);
}

TEST(LrSchedule, LinearFallsToTheMinimumAndStays) {
  const LrSchedule schedule({.kind = LrKind::linear, .warmup_steps = 10, .min_ratio = 0.2}, 1.0, 110);

  EXPECT_DOUBLE_EQ(schedule.at(5), 0.5);
  EXPECT_DOUBLE_EQ(schedule.at(10), 1.0);
  EXPECT_DOUBLE_EQ(schedule.at(35), 0.8);
  EXPECT_DOUBLE_EQ(schedule.at(60), 0.6);
  EXPECT_DOUBLE_EQ(schedule.at(110), 0.2);
  EXPECT_DOUBLE_EQ(schedule.at(200), 0.2);
}

TEST(LrSchedule, ConstantStaysAtThePeak) {
  const LrSchedule schedule({.kind = LrKind::constant, .warmup_steps = 4}, 0.02, 10);

  EXPECT_EQ(schedule.at(0), 0.0);
  EXPECT_DOUBLE_EQ(schedule.at(1), 0.005);
  EXPECT_DOUBLE_EQ(schedule.at(4), 0.02);
  EXPECT_DOUBLE_EQ(schedule.at(9), 0.02);
  EXPECT_DOUBLE_EQ(schedule.at(100), 0.02);
}

TEST(LrSchedule, WsdHoldsThePeakThenFallsOverTheLastSteps) {
  const LrSchedule schedule({.kind = LrKind::wsd, .warmup_steps = 100, .min_ratio = 0.1, .decay_ratio = 0.2},
                            1.0, 1000);

  EXPECT_DOUBLE_EQ(schedule.at(50), 0.5);
  EXPECT_DOUBLE_EQ(schedule.at(100), 1.0);
  EXPECT_DOUBLE_EQ(schedule.at(799), 1.0);
  EXPECT_DOUBLE_EQ(schedule.at(800), 1.0);
  EXPECT_DOUBLE_EQ(schedule.at(900), 0.55);
  EXPECT_DOUBLE_EQ(schedule.at(1000), 0.1);
  EXPECT_DOUBLE_EQ(schedule.at(2000), 0.1);
}

TEST(LrSchedule, StartsAtThePeakWithoutWarmUp) {
  for (const LrKind kind : {LrKind::constant, LrKind::linear, LrKind::cosine, LrKind::wsd, LrKind::plateau}) {
    EXPECT_DOUBLE_EQ(LrSchedule({.kind = kind, .warmup_steps = 0}, 0.3, 10).at(0), 0.3);
  }
}

TEST(LrSchedule, WarmsUpEveryKindAlike) {
  for (const LrKind kind : {LrKind::constant, LrKind::linear, LrKind::cosine, LrKind::wsd, LrKind::plateau}) {
    const LrSchedule schedule({.kind = kind, .warmup_steps = 8}, 0.8, 100);
    for (std::int64_t step = 0; step <= 8; ++step)
      EXPECT_DOUBLE_EQ(schedule.at(step), 0.1 * static_cast<double>(step));
  }
}

TEST(LrSchedule, PlateauFallsAfterPatienceIsSpent) {
  LrSchedule schedule({.kind = LrKind::plateau,
                       .warmup_steps = 2,
                       .min_ratio = 0.2,
                       .factor = 0.5,
                       .patience = 2,
                       .threshold = 0.01},
                      1.0, 100);
  const auto after = [&](double loss) {
    schedule.observe_eval(loss);
    return schedule.at(50);
  };

  EXPECT_EQ(after(10.0), 1.0);
  EXPECT_EQ(after(9.95), 1.0);  // 0.5 % is no improvement
  EXPECT_EQ(after(9.91), 1.0);
  EXPECT_EQ(after(9.89), 1.0);  // 1.1 % is one
  EXPECT_EQ(after(9.89), 1.0);
  EXPECT_EQ(after(11.0), 1.0);
  EXPECT_EQ(after(std::numeric_limits<double>::quiet_NaN()), 0.5);
  EXPECT_EQ(after(9.88), 0.5);
  EXPECT_EQ(after(9.88), 0.5);
  EXPECT_EQ(after(9.88), 0.25);
  for (int i = 0; i < 10; ++i) after(std::numeric_limits<double>::infinity());
  EXPECT_EQ(schedule.at(50), 0.2);
  EXPECT_EQ(schedule.at(1), 0.5);
}

TEST(LrSchedule, PlateauResumesWhereItWas) {
  const LrOptions options{.kind = LrKind::plateau, .patience = 2};
  const std::vector<double> losses = {5.0, 5.0, 5.0, 5.0, 4.0, 4.0, 4.5, std::nan(""), 3.0, 3.0, 3.0, 3.0};
  for (std::size_t cut = 0; cut <= losses.size(); ++cut) {
    LrSchedule unbroken(options, 1.0, 100);
    LrSchedule first(options, 1.0, 100);
    for (std::size_t i = 0; i < cut; ++i) {
      unbroken.observe_eval(losses[i]);
      first.observe_eval(losses[i]);
    }
    test::MemoryState state;
    first.save(state);
    LrSchedule second(options, 1.0, 100);
    second.load(state);
    for (std::size_t i = cut; i < losses.size(); ++i) {
      unbroken.observe_eval(losses[i]);
      second.observe_eval(losses[i]);
      EXPECT_EQ(second.at(50), unbroken.at(50)) << cut << " " << i;
    }
    EXPECT_EQ(unbroken.at(50), 0.125);
  }
}

TEST(LrSchedule, OtherKindsKeepNoState) {
  LrSchedule schedule({.kind = LrKind::cosine}, 1.0, 100);
  const double before = schedule.at(50);

  for (int i = 0; i < 10; ++i) schedule.observe_eval(10.0);
  test::MemoryState state;
  schedule.save(state);
  schedule.load(state);

  EXPECT_TRUE(state.reals.empty() && state.integers.empty() && state.tensors.empty() && state.texts.empty());
  EXPECT_EQ(schedule.at(50), before);
}

TEST(LrSchedule, RefusesAWarmUpAsLongAsTheRun) {
  EXPECT_EQ(error_of([] { LrSchedule({.warmup_steps = 10}, 1.0, 10); }),
            "lr_schedule.warmup_steps: found 10, needed fewer than the run's 10 steps");
  EXPECT_EQ(error_of([] { LrSchedule({.warmup_steps = 9}, 1.0, 10); }), "no error");
  EXPECT_EQ(
      error_of([] { LrSchedule({.kind = LrKind::wsd, .warmup_steps = 60, .decay_ratio = 0.5}, 1.0, 100); }),
      "lr_schedule.decay_ratio: found 0.5, which is 50 steps; with 60 steps of warm-up that is more than the "
      "run's 100");
  EXPECT_EQ(
      error_of([] { LrSchedule({.kind = LrKind::wsd, .warmup_steps = 50, .decay_ratio = 0.5}, 1.0, 100); }),
      "no error");
}

TEST(LrOptions, ReadTheKeysOfTheirKind) {
  const LrOptions cosine = parse("{}");
  EXPECT_EQ(cosine.kind, LrKind::cosine);
  EXPECT_EQ(cosine.warmup_steps, 0);
  EXPECT_EQ(cosine.min_ratio, 0.1);

  const LrOptions wsd = parse("{kind: wsd, warmup_steps: 1_000, min_ratio: 0, decay_ratio: 0.3}");
  EXPECT_EQ(wsd.kind, LrKind::wsd);
  EXPECT_EQ(wsd.warmup_steps, 1000);
  EXPECT_EQ(wsd.min_ratio, 0.0);
  EXPECT_EQ(wsd.decay_ratio, 0.3);

  const LrOptions plateau = parse("{kind: plateau, factor: 0.25, patience: 5, threshold: 1e-2}");
  EXPECT_EQ(plateau.kind, LrKind::plateau);
  EXPECT_EQ(plateau.factor, 0.25);
  EXPECT_EQ(plateau.patience, 5);
  EXPECT_EQ(plateau.threshold, 0.01);
  EXPECT_EQ(parse("{kind: linear}").kind, LrKind::linear);
  EXPECT_EQ(parse("{kind: constant}").kind, LrKind::constant);
}

TEST(LrOptions, RefuseKeysThatWouldDoNothing) {
  EXPECT_EQ(error_of([] { parse("{kind: constant, min_ratio: 0.1}"); }),
            "r.yaml:1:42: lr_schedule.min_ratio: has no effect with kind 'constant'; remove it");
  EXPECT_EQ(error_of([] { parse("{patience: 2}"); }),
            "r.yaml:1:25: lr_schedule.patience: has no effect with kind 'cosine'; remove it");
  EXPECT_EQ(error_of([] { parse("{kind: cosin}"); }),
            "r.yaml:1:21: lr_schedule.kind: found 'cosin', needed one of constant, linear, cosine, wsd, "
            "plateau; did you mean 'cosine'?");
  EXPECT_EQ(error_of([] { parse("{warmup: 2}"); }),
            "r.yaml:1:15: lr_schedule.warmup: unknown key; known here: kind, warmup_steps, min_ratio");
  EXPECT_EQ(error_of([] { parse("{min_ratio: 1.5}"); }),
            "r.yaml:1:26: lr_schedule.min_ratio: found '1.5', needed a number from 0.0 to 1.0");
}

TEST(LrOptions, CheckPointsAtTheRecipe) {
  const ConfigNode root = ConfigNode::parse_text("lr_schedule:\n  warmup_steps: 500\n", "r.yaml");
  const ConfigNode block = root.child("lr_schedule");
  const LrOptions options = LrOptions::parse(block);

  EXPECT_EQ(error_of([&] { options.check(100, block); }),
            "r.yaml:2:17: lr_schedule.warmup_steps: found 500, needed fewer than the run's 100 steps");
  EXPECT_EQ(error_of([&] { options.check(501, block); }), "no error");
}

}  // namespace
}  // namespace kumiko
