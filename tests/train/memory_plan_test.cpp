// SPDX-License-Identifier: Apache-2.0
#include "framework/train/memory_plan.hpp"

#include <array>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/memory_counter.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::Rig;
using test::RigOptions;
using ::testing::HasSubstr;

ModelOptions nine_million() {
  ModelOptions model = ModelOptions::from_preset("9m");
  model.vocab_size = 1024;
  return model;
}

data::Batch full_batch(const ModelOptions& model, std::int64_t rows, std::int64_t length) {
  return test::padded_batch(std::vector<std::int64_t>(static_cast<std::size_t>(rows), length), 4,
                            model.vocab_size);
}

struct Held {
  const char* name;
  const char* method;
  const char* yaml;
  bool nine_million = false;
  at::ScalarType param_dtype = at::kFloat;
  bool tied = false;
};

class PlannedStates : public ::testing::TestWithParam<Held> {};

TEST_P(PlannedStates, AreTheBytesHeld) {
  RigOptions options{.method = GetParam().method, .method_yaml = GetParam().yaml};
  if (GetParam().nine_million) options.model = nine_million();
  options.model.tie_embeddings = GetParam().tied;
  options.train.param_dtype = GetParam().param_dtype;
  Rig rig(options, [&](std::int64_t) { return test::Batches{full_batch(options.model, 1, 16)}; });
  rig.steps(2);  // a LoQT layer has its basis from the first step on
  const auto parameters = rig.run.model->parameters();
  std::int64_t held = rig.run.optimizer->state_nbytes();
  for (const Parameter* p : parameters) held += p->target == nullptr ? static_cast<std::int64_t>(p->value.nbytes()) : 0;
  for (const Linear* linear : rig.run.model->linears()) held += linear->frozen_nbytes();

  const MemoryPlan plan = plan_memory(options.model, *rig.run.method, options.train, 1, 16);
  const auto count = static_cast<std::int64_t>(parameters.size());
  EXPECT_EQ(held, plan.states());
  EXPECT_GE(rig.trainer.gradient_nbytes(), plan.gradients);
  EXPECT_LT(rig.trainer.gradient_nbytes(),
            plan.gradients + 64 * count);  // each begins at a multiple of 64 bytes
  if (std::string(GetParam().method) == "full" && std::string(GetParam().yaml).find("weights") == std::string::npos) {
    EXPECT_EQ(plan.states(), full_rank_state_bytes(options.model, GetParam().param_dtype) + 4 * count);   // and step counts
  } else {
    EXPECT_LT(plan.states(), full_rank_state_bytes(options.model, GetParam().param_dtype));
  }
}

constexpr const char* kTiny = "{rank: 8, schedule: {kind: static, tau: 50}}";
constexpr const char* kLarge = "{rank: 64, schedule: {kind: static, tau: 50}}";
INSTANTIATE_TEST_SUITE_P(
    Methods, PlannedStates,
    ::testing::Values(Held{"full", "full", ""}, Held{"full_tied", "full", "", false, at::kFloat, true},
                      Held{"full_bf16", "full", "", false, at::kBFloat16}, Held{"full_9m", "full", "", true},
                      Held{"loqt", "loqt", kTiny}, Held{"loqt_9m", "loqt", kLarge, true},
                      Held{"loqt_9m_bf16", "loqt", kLarge, true, at::kBFloat16},
                      Held{"loqt_mlp", "loqt", "{rank: 8, targets: mlp}"}, Held{"loqt_nq", "loqt_nq", kTiny},
                      Held{"loqt_nq_9m", "loqt_nq", kLarge, true},
                      Held{"full_int8", "full", "{quantization: {weights: int8, rounding: stochastic}}"},
                      Held{"full_stochastic_bf16", "full", "{quantization: {rounding: stochastic}}", false, at::kBFloat16},
                      Held{"apollo", "apollo", "{rank: 8}"}, Held{"apollo_9m", "apollo", "{rank: 64}", true, at::kBFloat16},
                      Held{"apollo_mini_mlp", "apollo_mini", "{targets: mlp}"}, Held{"q_apollo", "q_apollo", "{rank: 8}"},
                      Held{"q_apollo_mini_9m", "q_apollo_mini", "", true}, Held{"lora", "lora", "{rank: 4}"},
                      Held{"qlora_9m_bf16", "qlora", "{rank: 32, factor: bf16}", true, at::kBFloat16},
                      Held{"qlora_mlp", "qlora", "{rank: 3, targets: mlp}"},
                      Held{"relora", "relora", "{rank: 4, quantization: {weights: int8, block_size: 128}}"},
                      Held{"low_rank", "low_rank", "{rank: 8}"},
                      Held{"low_rank_bf16", "low_rank", "{rank: 8, factor: bf16, targets: attention}"},
                      Held{"galore", "galore", kTiny},
                      Held{"galore_9m_bf16", "galore", kLarge, true, at::kBFloat16},
                      Held{"galore_mlp", "galore", "{rank: 8, targets: mlp}"},
                      Held{"q_galore", "q_galore", kTiny}, Held{"q_galore_9m", "q_galore", kLarge, true}),
    [](const auto& info) { return info.param.name; });

struct Measured {
  const char* name;
  const char* method;
  Precision precision;
  std::int64_t rows, length;
  std::int64_t vocab = 1024;
};

class PlannedActivations : public ::testing::TestWithParam<Measured> {
 protected:
  RigOptions options(Recompute recompute) const {
    RigOptions options{.method = GetParam().method, .model = nine_million()};
    options.model.vocab_size = GetParam().vocab;
    if (options.method != "full") options.method_yaml = kLarge;
    options.train.precision = GetParam().precision;
    options.train.recompute = recompute;
    return options;
  }
  // Bytes that an ordinary step takes at its peak beyond what it holds anyway: states, gradients and the
  // batch.
  std::int64_t measured(const RigOptions& options) const {
    const data::Batch batch = full_batch(options.model, GetParam().rows, GetParam().length);
    Rig rig(options, [&](std::int64_t) { return test::Batches{batch}; });
    rig.steps(2);
    memory_counter::reset_peak();
    const std::int64_t before = memory_counter::current_bytes();
    rig.trainer.step();
    return memory_counter::peak_bytes() - before;
  }
  std::int64_t planned(const RigOptions& options) const {
    const Rig rig(options);
    return plan_memory(options.model, *rig.run.method, options.train, GetParam().rows, GetParam().length)
        .activations;
  }
};

constexpr std::array<std::pair<const char*, Recompute>, 5> kRecomputes = {
    {{"none", Recompute::none},
     {"norm_swiglu", Recompute::norm_swiglu},
     {"attention", Recompute::attention},
     {"mlp", Recompute::mlp},
     {"block", Recompute::block}}};

TEST_P(PlannedActivations, AreNearTheMeasuredPeak) {
  memory_counter::install();
  for (const auto& [name, recompute] : kRecomputes) {
    const RigOptions chosen = options(recompute);
    const auto plan = static_cast<double>(planned(chosen));
    const auto peak = static_cast<double>(measured(chosen));
    ASSERT_GT(peak, 1e6);
    EXPECT_NEAR(plan / peak, 1.0, 0.35) << name << ": planned " << plan << ", measured " << peak;
  }
}

// norm_swiglu, attention and mlp leave out different things and are each between none and block.
TEST_P(PlannedActivations, FallAsMoreIsRecomputed) {
  memory_counter::install();
  std::map<Recompute, std::int64_t> plan, peak;
  for (const auto& [name, recompute] : kRecomputes) {
    plan[recompute] = planned(options(recompute));
    peak[recompute] = measured(options(recompute));
  }
  for (const auto& bytes : {plan, peak}) {
    for (const Recompute recompute : {Recompute::norm_swiglu, Recompute::attention, Recompute::mlp}) {
      EXPECT_LT(bytes.at(recompute), bytes.at(Recompute::none));
      EXPECT_LT(bytes.at(Recompute::block), bytes.at(recompute));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Runs, PlannedActivations,
                         ::testing::Values(Measured{"fp32", "full", Precision::fp32, 4, 128},
                                           Measured{"loqt_fp32", "loqt", Precision::fp32, 3, 200},
                                           Measured{"loqt_bf16", "loqt", Precision::bf16, 4, 128},
                                           Measured{"head", "full", Precision::bf16, 4, 128, 16000}),
                         [](const auto& info) { return info.param.name; });

TEST(FullRankStateBytes, AreParametersAndTwoMoments) {
  ModelOptions model = ModelOptions::from_preset("60m");
  model.vocab_size = 32000;
  EXPECT_EQ(full_rank_state_bytes(model, at::kFloat), std::int64_t{58073600} * 12);
  EXPECT_EQ(full_rank_state_bytes(model, at::kBFloat16), std::int64_t{58073600} * 10);
}

TEST(DescribeMemoryPlan, NamesEachPartAndTheTotal) {
  MemoryPlan plan;
  plan.weights = 1 << 20;
  plan.sketches = 3 << 20;
  const std::string text = describe(plan);
  for (const char* part : {"weights", "scales", "basis", "factor", "moments", "gradients", "activations",
                           "sketches", "scratch", "total"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(text, ::testing::ContainsRegex("total +4 MiB"));
}

}  // namespace
}  // namespace kumiko
