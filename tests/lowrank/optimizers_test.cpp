// SPDX-License-Identifier: Apache-2.0
// Every optimizer on dense matrices and, through merges and refreshes that rotate or prune its state, on factors and projected gradients.
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/lowrank/training_checks.hpp"

namespace kumiko::lowrank {
namespace {

using test::Trained;

class OptimizersTraining : public ::testing::TestWithParam<Trained> {};

TEST_P(OptimizersTraining, ResumesBitForBitAcrossAMerge) { test::expect_resumes_bit_for_bit(GetParam(), 5, 3); }

TEST_P(OptimizersTraining, HoldsWhatItPlans) { test::expect_plan_is_what_is_held(GetParam()); }

TEST_P(OptimizersTraining, IsTheSameOnTwoRanks) {
  test::expect_ranks_change_nothing(GetParam(), false);
  test::expect_ranks_change_nothing(GetParam(), true);
}

TEST_P(OptimizersTraining, IsTheSameWithAccumulationAndUpdatesByLayer) {
  test::expect_accumulation_changes_nothing(GetParam(), false);
  test::expect_accumulation_changes_nothing(GetParam(), true);
}

constexpr const char* kLoqt = "{rank: 8, schedule: {kind: static, tau: 3}}";
constexpr const char* kGalore = "{rank: 8, schedule: {kind: static, tau: 3}, moments: rotate}";
constexpr const char* kRelora = "{rank: 8, schedule: {kind: static, tau: 3}, restart_warmup_steps: 1}";
constexpr const char* kAdam8bit = "{name: adam8bit, min_8bit_size: 0}";
constexpr const char* kAdamBf16 = "{name: adamw, state: bf16}";
constexpr const char* kAdafactor = "{name: adafactor}";
constexpr const char* kSgd = "{name: sgd, momentum: 0.9, dampening: 0.1, lr_scale: {matrices: 10, embedding: 10, head: 10}}";
constexpr const char* kMuon = "{name: muon}";
constexpr const char* kColumnNorm = "{name: column_norm, momentum: 0.9}";
INSTANTIATE_TEST_SUITE_P(
    Kinds, OptimizersTraining,
    ::testing::Values(Trained{"full_adam8bit", "full", "", 1e-3, kAdam8bit}, Trained{"full_adamw_bf16", "full", "", 1e-3, kAdamBf16},
                      Trained{"full_adafactor", "full", "", 1e-5, kAdafactor}, Trained{"full_sgd", "full", "", 1e-5, kSgd},
                      Trained{"full_muon", "full", "", 1e-5, kMuon}, Trained{"full_column_norm", "full", "", 1e-5, kColumnNorm},
                      Trained{"loqt_adam8bit", "loqt_nq", kLoqt, 1e-3, kAdam8bit},
                      Trained{"loqt_adamw_bf16", "loqt_nq", kLoqt, 1e-3, kAdamBf16},
                      Trained{"loqt_adafactor", "loqt_nq", kLoqt, 1e-5, kAdafactor}, Trained{"loqt_sgd", "loqt_nq", kLoqt, 1e-5, kSgd},
                      Trained{"loqt_muon", "loqt_nq", kLoqt, 1e-5, kMuon},
                      Trained{"loqt_column_norm", "loqt_nq", kLoqt, 1e-5, kColumnNorm},
                      Trained{"galore_adam8bit", "galore", kGalore, 1e-3, kAdam8bit},
                      Trained{"galore_adafactor", "galore", kGalore, 1e-5, kAdafactor},
                      Trained{"galore_muon", "galore", kGalore, 1e-5, kMuon},
                      Trained{"galore_column_norm", "galore", kGalore, 1e-5, kColumnNorm},
                      Trained{"relora_muon", "relora", kRelora, 1e-5, kMuon}, Trained{"relora_adam8bit", "relora", kRelora, 1e-3, kAdam8bit}),
    [](const auto& info) { return info.param.name; });

TEST(Optimizers, RefuseToScaleByParametersKeptInCodes) {
  const Trained trained{"", "full", "{quantization: {weights: int8, block_size: 128}}", 0.0, "{name: adafactor, scale_parameter: true}"};
  EXPECT_THROW(kumiko::test::Rig rig(test::rig_options(trained)), UsageError);
}

}  // namespace
}  // namespace kumiko::lowrank
