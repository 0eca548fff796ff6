// SPDX-License-Identifier: Apache-2.0
// Numbers that are not finite: nothing moves, and a streak of them ends the run.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::expect_same_state;
using test::Rig;
using test::RigOptions;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr const char* kPlanted = "model.layers.1.post_attention_layernorm.weight";

// One element of a parameter is not a number while this lives.
class PlantedNan {
 public:
  explicit PlantedNan(Rig& rig) : value_(rig.run.parameters().at(kPlanted)->value), kept_(value_.clone()) {
    value_[5] = kNan;
  }
  PlantedNan(const PlantedNan&) = delete;
  PlantedNan& operator=(const PlantedNan&) = delete;
  ~PlantedNan() { value_.copy_(kept_); }

 private:
  at::Tensor value_, kept_;
};

StepReport step_with_nan(Rig& rig) {
  const PlantedNan planted(rig);
  return rig.trainer.step();
}

// The next backward pass of an optimizer step leaves an infinite gradient; the loss stays finite.
void spoil_next_gradient(Rig& rig, const std::string& name) {
  rig.model.after_backward = [&rig, name](BackwardMode) {
    rig.run.parameters().at(name)->grad.view({-1})[0] = kInfinity;
    rig.model.after_backward = {};
  };
}

class NonFiniteStep : public ::testing::TestWithParam<const char*> {
 protected:
  RigOptions options() const {
    RigOptions options{.method = GetParam()};
    if (options.method != "full") options.method_yaml = "{rank: 8, schedule: {kind: static, tau: 5}}";
    options.train.grad_clip = 1.0;
    options.train.max_non_finite_steps = 3;
    options.optimizer_yaml = "{weight_decay: 0.1}";
    return options;
  }
};

TEST_P(NonFiniteStep, MovesNothingAndIsReported) {
  Rig rig(options());
  rig.steps(2);
  const auto before = rig.state();
  const StepReport lost = step_with_nan(rig);
  EXPECT_TRUE(lost.skipped);
  EXPECT_FALSE(std::isfinite(lost.loss));
  expect_same_state(rig.state(), before, /*with_counters=*/false);
  EXPECT_EQ(rig.trainer.next_step(), 3);  // its batch is used up
  EXPECT_EQ(rig.source.position(), 3);
  EXPECT_EQ(rig.state().integers.at("trainer/non_finite_steps"), 1);

  spoil_next_gradient(rig, "lm_head.weight");
  const StepReport spoiled = rig.trainer.step();
  EXPECT_TRUE(spoiled.skipped);
  EXPECT_TRUE(std::isfinite(spoiled.loss));
  EXPECT_FALSE(std::isfinite(spoiled.grad_norm));
  expect_same_state(rig.state(), before, /*with_counters=*/false);
  EXPECT_EQ(rig.state().integers.at("trainer/non_finite_steps"), 2);
}

// What follows is what would have followed had the lost batches never come.
TEST_P(NonFiniteStep, LeavesNoTraceInTheStepsBehindIt) {
  const auto skip_one = [](std::int64_t step) {
    return test::four_micro_batches(step < 2 ? step : step - 1);
  };
  Rig clean(options());
  Rig hurt(options(), skip_one);
  clean.steps(2);
  hurt.steps(2);
  EXPECT_TRUE(step_with_nan(hurt).skipped);
  clean.steps(2);  // steps 2 and 3 of no probe; the other run's are 3 and 4
  for (const auto& report : hurt.steps(2)) EXPECT_FALSE(report.skipped);
  expect_same_state(hurt.state(), clean.state(), /*with_counters=*/false);
  EXPECT_EQ(hurt.state().integers.at("trainer/non_finite_steps"), 0);
}

TEST_P(NonFiniteStep, EndsTheRunAfterTooManyInARow) {
  Rig rig(options());
  rig.steps(1);
  EXPECT_TRUE(step_with_nan(rig).skipped);
  EXPECT_TRUE(step_with_nan(rig).skipped);
  EXPECT_FALSE(rig.trainer.step().skipped);  // the streak is over
  const auto before = rig.state();
  EXPECT_TRUE(step_with_nan(rig).skipped);
  const StepReport fifth = step_with_nan(rig);
  EXPECT_TRUE(fifth.skipped);
  EXPECT_EQ(fifth.probe, std::string(GetParam()) != "full");
  try {
    step_with_nan(rig);
    FAIL() << "the third in a row passed";
  } catch (const DivergedError& error) {
    EXPECT_EQ(static_cast<int>(error.code()), 7);
    const std::string message = error.what();
    EXPECT_THAT(message, HasSubstr("3 steps in a row with a non-finite loss"));
    EXPECT_THAT(message, HasSubstr("step 6, loss nan"));
    EXPECT_THAT(message, HasSubstr("first in "));
    EXPECT_THAT(message, HasSubstr("optimizer.lr"));
    EXPECT_THAT(message, HasSubstr("train.grad_clip"));
    EXPECT_THAT(message, HasSubstr("resume from the last checkpoint"));
  }
  expect_same_state(rig.state(), before, /*with_counters=*/false);
}

INSTANTIATE_TEST_SUITE_P(Methods, NonFiniteStep, ::testing::Values("full", "loqt", "loqt_nq"),
                         [](const auto& info) { return info.param; });

TEST(NonFiniteGradient, IsNamedByItsParameter) {
  RigOptions options;
  options.train.max_non_finite_steps = 1;
  Rig rig(options);
  spoil_next_gradient(rig, "model.layers.1.mlp.up_proj.weight");
  try {
    rig.trainer.step();
    FAIL() << "an infinite gradient passed";
  } catch (const DivergedError& error) {
    EXPECT_THAT(error.what(), HasSubstr("non-finite gradient (step 0, loss 4."));
    EXPECT_THAT(error.what(), HasSubstr("gradient norm inf, first in model.layers.1.mlp.up_proj.weight)"));
  }
}

TEST(NonFiniteProbe, ChangesNothing) {
  RigOptions options{.method = "loqt", .method_yaml = "{rank: 8, schedule: {kind: static, tau: 3}}"};
  Rig rig(options);
  rig.steps(3);
  const auto before = rig.state();
  const StepReport report = step_with_nan(rig);
  EXPECT_TRUE(report.probe);
  EXPECT_TRUE(report.skipped);
  EXPECT_FALSE(report.method.merged);
  expect_same_state(rig.state(), before, /*with_counters=*/false);
  for (const auto& next : rig.steps(3)) EXPECT_FALSE(next.skipped);
  EXPECT_EQ(rig.run.method->merges(), 1);  // the next probe's
}

TEST(NonFiniteStreak, IsCountedAcrossASave) {
  RigOptions options;
  options.train.max_non_finite_steps = 3;
  Rig rig(options);
  EXPECT_TRUE(step_with_nan(rig).skipped);
  EXPECT_TRUE(step_with_nan(rig).skipped);
  Rig resumed(options);
  resumed.trainer.load(rig.state());
  EXPECT_THROW(step_with_nan(resumed), DivergedError);
}

TEST(NonFiniteRank, IsFollowedByAll) {
  RigOptions options;
  options.train.max_non_finite_steps = 2;
  std::vector<test::MemoryState> states(2);
  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    at::set_num_threads(1);
    Rig rig(options, test::four_micro_batches, &comm);
    rig.steps(2);
    const auto before = rig.state();
    if (comm.rank() == 1) spoil_next_gradient(rig, "model.norm.weight");
    EXPECT_TRUE(rig.trainer.step().skipped);
    expect_same_state(rig.state(), before, /*with_counters=*/false);
    if (comm.rank() == 0) spoil_next_gradient(rig, "model.norm.weight");
    EXPECT_THROW(rig.trainer.step(), DivergedError);  // on both
    states[static_cast<std::size_t>(comm.rank())] = rig.state();
  });
  expect_same_state(states[1], states[0]);
}

}  // namespace
}  // namespace kumiko
