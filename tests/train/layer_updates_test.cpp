// SPDX-License-Identifier: Apache-2.0
// train.per_layer_updates: parameters move inside the backward pass, and nothing else changes.
#include "framework/train/layer_updates.hpp"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/thread_group.hpp"
#include "framework/core/error.hpp"
#include "framework/model/adamw.hpp"
#include "framework/train/memory_plan.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::Batches;
using test::expect_same_report;
using test::expect_same_state;
using test::Rig;
using test::RigOptions;

constexpr int kSteps = 24;

// Eight sequences a step, cut into micro-batches of `rows`, the share of one rank.
test::StepSource::Make sequences(std::int64_t rows, int rank = 0, int ranks = 1) {
  return [=](std::int64_t step) {
    const data::Batch all = test::padded_batch({9, 4, 11, 7, 5, 12, 8, 6}, static_cast<std::uint64_t>(step) + 1);
    Batches batches;
    const std::int64_t share = 8 / ranks;
    for (std::int64_t begin = rank * share; begin < (rank + 1) * share; begin += rows) batches.push_back(test::rows_of(all, begin, rows));
    return batches;
  };
}

struct Case {
  const char* name;
  const char* method;
  const char* yaml;
  bool tied = false;
  Recompute recompute = Recompute::none;
};

RigOptions options_of(const Case& one, bool per_layer) {
  RigOptions options{.method = one.method, .method_yaml = one.yaml};
  options.model.tie_embeddings = one.tied;
  options.train.recompute = one.recompute;
  options.train.per_layer_updates = per_layer;
  options.optimizer_yaml = "{weight_decay: 0.1}";
  return options;
}

class LayerUpdatesOf : public ::testing::TestWithParam<Case> {};

TEST_P(LayerUpdatesOf, MoveLikeAnUpdateAfterTheBackwardPassBitForBit) {
  Rig whole(options_of(GetParam(), false), sequences(8)), by_layer(options_of(GetParam(), true), sequences(8));
  for (int i = 0; i < kSteps; ++i) {
    const StepReport expected = whole.trainer.step();
    StepReport report = by_layer.trainer.step();
    EXPECT_NEAR(report.grad_norm, expected.grad_norm, 1e-6 * expected.grad_norm);   // summed by parameter
    report.grad_norm = expected.grad_norm;
    expect_same_report(report, expected);
  }
  expect_same_state(by_layer.state(), whole.state());
}

// The gradients of micro-batches are summed before the layer moves, over ranks too: the peers' per-layer optimizers step once a
// micro-batch.
TEST_P(LayerUpdatesOf, AreThoseOfTheWholeStepUnderAccumulationAndRanks) {
  Rig once(options_of(GetParam(), true), sequences(8));
  const auto expected = once.steps(kSteps);
  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    Rig cut(options_of(GetParam(), true), sequences(1, comm.rank(), 2), &comm);
    // A merge of quantized weights may flip a code: compare up to the first one after training began.
    const bool quantized = std::string(GetParam().method) == "loqt";
    for (int i = 0; i < kSteps; ++i) {
      const StepReport report = cut.trainer.step();
      EXPECT_NEAR(report.loss, expected[static_cast<std::size_t>(i)].loss, 1e-5) << "step " << i;
      if (quantized && report.method.merged) break;
    }
  });
}

TEST_P(LayerUpdatesOf, HoldOneGradientAtATimeOfASingleMicroBatch) {
  Rig rig(options_of(GetParam(), true), sequences(8));
  rig.steps(2);
  std::int64_t table = 0, largest = 0;   // a tied table's gradient stays from the head to the embedding
  for (const Parameter* p : rig.run.model->parameters()) {
    std::int64_t& held = GetParam().tied && p->role == ParamRole::embedding ? table : largest;
    held = std::max(held, 4 * p->grad_numel());
  }
  EXPECT_EQ(rig.trainer.gradient_nbytes(), table + largest);
  RigOptions options = options_of(GetParam(), true);
  options.train.global_batch_size = 8;
  EXPECT_EQ(plan_memory(options.model, *rig.run.method, options.train, 8, 12).gradients, table + largest);
  EXPECT_GT(plan_memory(options.model, *rig.run.method, options.train, 4, 12).gradients, 2 * (table + largest));
  for (const Parameter* p : rig.run.model->parameters()) EXPECT_FALSE(p->grad.defined()) << p->name;
}

INSTANTIATE_TEST_SUITE_P(
    Methods, LayerUpdatesOf,
    ::testing::Values(Case{"full", "full", ""}, Case{"full_tied", "full", "", true},
                      Case{"full_recompute", "full", "", false, Recompute::block},
                      Case{"loqt", "loqt", "{rank: 8, schedule: {kind: static, tau: 8}}"},
                      Case{"loqt_nq", "loqt_nq", "{rank: 8, schedule: {kind: static, tau: 7}}"},
                      Case{"loqt_nq_recompute", "loqt_nq", "{rank: 8, schedule: {kind: static, tau: 7}}", false, Recompute::attention}),
    [](const auto& info) { return info.param.name; });

TEST(LayerUpdates, LeaveEverythingBehindANonFiniteGradientAlone) {
  Rig rig(options_of({"full", "full", ""}, true), sequences(8));
  rig.steps(2);
  Parameter& norm = *rig.run.parameters().at("model.layers.0.input_layernorm.weight");
  norm.value[0] = std::numeric_limits<float>::quiet_NaN();   // the loss is NaN, and every gradient with it
  const auto before = rig.state();
  const StepReport report = rig.trainer.step();
  EXPECT_TRUE(report.skipped);
  auto after = rig.state();
  for (const auto& [name, value] : before.tensors) EXPECT_TRUE(test::same_bits(after.tensors.at(name), value)) << name;
}

TEST(LayerUpdates, MoveWhatCameBeforeANonFiniteGradientAndNothingBehindIt) {
  std::vector<Parameter> parameters;
  for (const char* name : {"first", "bad", "last"}) parameters.push_back({name, ParamRole::matrix, at::ones({3}), {}});
  const AdamWFactory rules(ConfigNode::parse_text("{}", "test"));
  Optimizer optimizer({}, {&parameters[0], &parameters[1], &parameters[2]}, rules);
  const auto comm = dist::make_solo();
  LayerUpdates updates(optimizer, *comm, dist::Wire::fp32, 0.1, /*owns_gradients=*/true);
  for (Parameter& p : parameters) {
    updates.open(p);
    p.grad.add_(p.name == "bad" ? std::numeric_limits<double>::quiet_NaN() : 1.0);
    updates.close(p);
  }
  EXPECT_EQ(updates.first_non_finite(), "bad");
  EXPECT_LT(parameters[0].value[0].item<float>(), 1.0F);
  EXPECT_TRUE(at::equal(parameters[1].value, at::ones({3})));
  EXPECT_TRUE(at::equal(parameters[2].value, at::ones({3})));
}

TEST(LayerUpdates, RunIntoTheGuardOfDivergence) {
  RigOptions options = options_of({"full", "full", ""}, true);
  options.train.max_non_finite_steps = 2;
  Rig rig(options, sequences(8));
  rig.run.parameters().at("model.norm.weight")->value[0] = std::numeric_limits<float>::infinity();
  rig.steps(1);
  try {
    rig.trainer.step();
    FAIL() << "no error";
  } catch (const DivergedError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("first in lm_head.weight"));
  }
}

}  // namespace
}  // namespace kumiko
