// SPDX-License-Identifier: Apache-2.0
#include "lowrank/merge_schedule.hpp"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "tests/lowrank/lowrank_test_support.hpp"

namespace kumiko::lowrank {
namespace {

using Steps = std::vector<std::int64_t>;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int64_t kNoClamp = std::numeric_limits<std::int64_t>::max();

// tau 100, psi 1.2: the merge steps of the published code's 10000-step run.
const Steps kPublished = {0,    100,  201,  302,  403,  505,  607,  709,  812,  916,  1021, 1127, 1234, 1342,
                          1452, 1564, 1679, 1797, 1919, 2045, 2176, 2314, 2460, 2615, 2781, 2960, 3155, 3369,
                          3606, 3870, 4167, 4504, 4888, 5329, 5839, 6431, 7121, 7929, 8879, 9999};

Steps tail(const Steps& steps, std::size_t count) {
  return {steps.end() - static_cast<std::ptrdiff_t>(count), steps.end()};
}

TEST(MergeSchedule, ExponentialStepsEqualThePublishedOnes) {
  EXPECT_EQ(MergeSchedule::exponential_steps(100, 1.2, kNoClamp, 10000), kPublished);
  Steps longer = kPublished;
  longer.insert(longer.end(), {11323, 12892, 14755, 16971, 19610});
  EXPECT_EQ(MergeSchedule::exponential_steps(100, 1.2, kNoClamp, 20000), longer);

  const Steps of_60000 = MergeSchedule::exponential_steps(100, 1.2, kNoClamp, 60000);
  EXPECT_EQ(of_60000.size(), 52U);
  EXPECT_EQ(tail(of_60000, 3), (Steps{42787, 50470, 59670}));
  const Steps of_100000 = MergeSchedule::exponential_steps(100, 1.2, kNoClamp, 100000);
  EXPECT_EQ(of_100000.size(), 55U);
  EXPECT_EQ(tail(of_100000, 3), (Steps{70690, 83894, 99719}));
}

struct Guarded {
  std::int64_t total_steps;
  std::size_t count;
  std::int64_t last;
};

class MergeScheduleGuard : public ::testing::TestWithParam<Guarded> {};

// The published sequences without the merges whose factor the run could not train: 9999 of 10000, 19610 of
// 20000, 59670 of 60000, 99719 of 100000.
TEST_P(MergeScheduleGuard, DropsMergesThatTheRunCannotTrainOn) {
  const auto [total, count, last] = GetParam();
  const auto schedule = MergeSchedule::exponential(100, 1.2, kNoClamp, total);
  EXPECT_EQ(schedule.steps().size(), count);
  EXPECT_EQ(schedule.steps().back(), last);
  EXPECT_TRUE(schedule.due(last));
  EXPECT_EQ(schedule.next_after(last), -1);
  const Steps all = MergeSchedule::exponential_steps(100, 1.2, kNoClamp, total);
  EXPECT_TRUE(std::equal(schedule.steps().begin(), schedule.steps().end(), all.begin()));
  EXPECT_FALSE(schedule.due(all.back()));
}

INSTANTIATE_TEST_SUITE_P(PublishedRuns, MergeScheduleGuard,
                         ::testing::Values(Guarded{10000, 39, 8879}, Guarded{20000, 44, 16971},
                                           Guarded{60000, 51, 50470}, Guarded{100000, 54, 83894}));

TEST(MergeSchedule, ClampsTheGapNotTheStep) {
  // Gaps 10, 12, 14, 18, then 26 and more, cut to 20.
  EXPECT_THAT(MergeSchedule::exponential_steps(10, 2.0, 20, 100), ElementsAre(0, 10, 22, 36, 54, 74, 94));
  EXPECT_THAT(MergeSchedule::exponential_steps(100, 2.0, 40, 130), ElementsAre(0, 40, 80, 120));
}

TEST(MergeSchedule, EveryMergesAtMultiplesWithAWholeGapLeft) {
  EXPECT_THAT(MergeSchedule::every(10, 35).steps(), ElementsAre(0, 10, 20));
  EXPECT_THAT(MergeSchedule::every(10, 31).steps(), ElementsAre(0, 10, 20));
  EXPECT_THAT(MergeSchedule::every(10, 30).steps(), ElementsAre(0, 10));
  EXPECT_THAT(MergeSchedule::every(10, 1).steps(), ElementsAre(0));
}

TEST(MergeSchedule, LinearGapsGrowByTheIncrement) {
  // Gaps 10, 15, 20, 25, 30: 0 10 25 45 70 100; the last has a gap of 35.
  EXPECT_THAT(MergeSchedule::linear(10, 5, 136).steps(), ElementsAre(0, 10, 25, 45, 70, 100));
  EXPECT_THAT(MergeSchedule::linear(10, 5, 135).steps(), ElementsAre(0, 10, 25, 45, 70));
}

TEST(MergeSchedule, ExplicitStepsAreSortedAndEndBeforeTheLast) {
  EXPECT_THAT(MergeSchedule::at_steps({40, 7, 7, 99, 98, 200}, 100).steps(), ElementsAre(0, 7, 40, 98));
  EXPECT_THAT(MergeSchedule::at_steps({}, 100).steps(), ElementsAre(0));
}

TEST(MergeSchedule, SaysWhatIsDueAndWhatComesNext) {
  const auto schedule = MergeSchedule::at_steps({7, 40}, 100);
  for (std::int64_t step = 0; step < 100; ++step)
    EXPECT_EQ(schedule.due(step), step == 0 || step == 7 || step == 40) << step;
  EXPECT_EQ(schedule.next_after(0), 7);
  EXPECT_EQ(schedule.next_after(6), 7);
  EXPECT_EQ(schedule.next_after(7), 40);
  EXPECT_EQ(schedule.next_after(40), -1);
  EXPECT_EQ(schedule.next_after(-1), 0);
}

MergeSchedule parsed(const std::string& yaml, std::int64_t total_steps) {
  const auto node = ConfigNode::parse_text(yaml, "r.yaml");
  auto schedule = MergeSchedule::parse(node, total_steps);
  node.finish();
  return schedule;
}

TEST(MergeSchedule, ReadsEachKindFromARecipe) {
  EXPECT_EQ(parsed("{}", 10000).steps(), MergeSchedule::exponential(100, 1.2, 2500, 10000).steps());
  EXPECT_EQ(parsed("{kind: exponential, tau: 20, psi: 1.5, max_gap: 60}", 900).steps(),
            MergeSchedule::exponential(20, 1.5, 60, 900).steps());
  EXPECT_THAT(parsed("{kind: static, tau: 10}", 35).steps(), ElementsAre(0, 10, 20));
  EXPECT_THAT(parsed("{kind: linear, tau: 10, increment: 5}", 135).steps(), ElementsAre(0, 10, 25, 45, 70));
  EXPECT_THAT(parsed("{kind: at_steps, steps: [3, 9]}", 20).steps(), ElementsAre(0, 3, 9));
}

TEST(MergeSchedule, WithAnOpenEndIsDueAsLongAsTheRunLasts) {
  const auto open = [](const std::string& yaml, std::int64_t total_steps) {
    const auto node = ConfigNode::parse_text(yaml, "r.yaml");
    return MergeSchedule::parse(node, total_steps, {ScheduleKind::fixed, 10, ScheduleEnd::open});
  };
  EXPECT_THAT(open("{}", 35).steps(), ElementsAre(0, 10, 20, 30));
  EXPECT_THAT(open("{}", 31).steps(), ElementsAre(0, 10, 20, 30));
  EXPECT_THAT(open("{}", 30).steps(), ElementsAre(0, 10, 20));
  EXPECT_THAT(open("{kind: linear, increment: 5}", 46).steps(), ElementsAre(0, 10, 25, 45));
  EXPECT_THAT(open("{kind: exponential, psi: 2, max_gap: 13}", 40).steps(), ElementsAre(0, 10, 22, 35));
  EXPECT_THAT(open("{kind: at_steps, steps: [19, 20]}", 20).steps(), ElementsAre(0, 19));
  EXPECT_EQ(open("{}", 35).count_before(20), 2);
  EXPECT_EQ(open("{}", 35).count_before(21), 3);
}

TEST(MergeSchedule, RefusesBadRecipesAtTheirKey) {
  const auto refusal = [](const std::string& yaml) {
    return test::message_of<UsageError>([&] { parsed(yaml, 100); });
  };
  EXPECT_THAT(refusal("{kind: exponental}"),
              ::testing::AllOf(HasSubstr("r.yaml:1"), HasSubstr("kind"), HasSubstr("exponental")));
  EXPECT_THAT(refusal("{tau: 0}"), ::testing::AllOf(HasSubstr("tau"), HasSubstr("0")));
  EXPECT_THAT(refusal("{psi: 0.9}"), ::testing::AllOf(HasSubstr("psi"), HasSubstr("0.9")));
  EXPECT_THAT(refusal("{kind: static, tau: 5, psi: 1.3}"), HasSubstr("psi"));  // not a key of this kind
  EXPECT_THAT(refusal("{kind: at_steps, steps: [5, -1]}"),
              ::testing::AllOf(HasSubstr("steps"), HasSubstr("-1")));
}

}  // namespace
}  // namespace kumiko::lowrank
