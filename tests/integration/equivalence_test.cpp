// SPDX-License-Identifier: Apache-2.0
// One step's sequences in one micro-batch or in sixteen: the same training.
#include <gtest/gtest.h>

#include "lowrank/loqt_linear.hpp"
#include "tests/integration/trained_run.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko::test {
namespace {

constexpr std::int64_t kSteps = 60;
constexpr const char* kSchedule = "{rank: 8, scale: 0.5, schedule: {kind: static, tau: 14}}";   // merges at 14, 28, 42

std::vector<double> losses(TrainedRun& run, std::int64_t steps) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < steps; ++i) result.push_back(run.trainer.step().loss);
  return result;
}

class MicroBatches : public ::testing::TestWithParam<const char*> {};

TEST_P(MicroBatches, OneOfSixteenEqualsSixteenOfOne) {
  const std::string yaml = std::string(GetParam()) == "full" ? "" : kSchedule;
  TrainedRun whole(GetParam(), yaml, 16, 16, 12, kSteps, tiny_options(), {}, 0.003);
  TrainedRun split(GetParam(), yaml, 16, 1, 12, kSteps, tiny_options(), {}, 0.003);
  const auto a = losses(whole, kSteps);
  const auto b = losses(split, kSteps);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5) << "step " << i;
  EXPECT_LT(a.back(), a.front() - 0.5);
  EXPECT_EQ(whole.run.method->merges(), yaml.empty() ? 0 : 3);
}

INSTANTIATE_TEST_SUITE_P(Methods, MicroBatches, ::testing::Values("full", "loqt_nq"), [](const auto& info) { return info.param; });

// With NF4 a code that flips at a threshold is a jump: losses agree up to the first trained merge, and each merge is replayed
// from one state.
TEST(MicroBatchesLoqt, AgreeUpToTheFirstTrainedMerge) {
  TrainedRun whole("loqt", kSchedule, 16, 16, 12, kSteps, tiny_options(), {}, 0.003);
  TrainedRun split("loqt", kSchedule, 16, 1, 12, kSteps, tiny_options(), {}, 0.003);
  const auto a = losses(whole, 15);
  const auto b = losses(split, 15);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5) << "step " << i;
}

TEST(MicroBatchesLoqt, MergeAlikeFromOneState) {
  TrainedRun whole("loqt", kSchedule, 16, 16, 12, kSteps, tiny_options(), {}, 0.003);
  TrainedRun split("loqt", kSchedule, 16, 1, 12, kSteps, tiny_options(), {}, 0.003);
  for (const std::int64_t merge : {14, 28, 42}) {
    while (whole.trainer.next_step() < merge) whole.trainer.step();
    MemoryState state;
    whole.trainer.save(state);
    split.trainer.load(state);
    EXPECT_TRUE(whole.trainer.step().method.merged);
    EXPECT_TRUE(split.trainer.step().method.merged);
    const auto a = whole.run.model->linears();
    const auto b = split.run.model->linears();
    for (std::size_t i = 0; i < a.size(); ++i) {
      const at::Tensor weight = a[i]->effective_weight();
      const double difference = (at::norm(weight - b[i]->effective_weight()) / at::norm(weight)).item<double>();
      // A flipped code or scale moves single entries by a code's width; the compensated sum hardly moves.
      EXPECT_LT(difference, 2e-2) << a[i]->spec().name << " at " << merge;
    }
  }
}

}  // namespace
}  // namespace kumiko::test
