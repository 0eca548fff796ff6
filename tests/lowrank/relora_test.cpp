// SPDX-License-Identifier: Apache-2.0
// ReLoRA: restarts by independent arithmetic, and what the method owes the trainer.
#include "lowrank/methods/relora.hpp"

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
using kumiko::test::RigOptions;
using kumiko::test::textbook_batch;
using kumiko::test::textbook_options;
using kumiko::test::TextbookFactors;
using kumiko::test::TextbookRig;
using test::refusal;
using test::Trained;
using ::testing::HasSubstr;

constexpr const char* kRestarts = "rank: 8, alpha: 12, schedule: {kind: at_steps, steps: [6, 13]}, restart_warmup_steps: 3";

RigOptions options_of(const std::string& more) { return textbook_options("relora", concat("{", kRestarts, ", ", more, "}")); }

// The elements at or below the quantile go: of n the smallest ones, at the places 0 to pruned (n - 1).
at::Tensor without_smallest(const at::Tensor& moment, double pruned) {
  at::Tensor flat = moment.flatten().clone();
  const auto order = flat.abs().argsort(false);
  const auto count = static_cast<std::int64_t>(pruned * static_cast<double>(flat.numel() - 1)) + 1;
  flat.index_fill_(0, order.narrow(0, 0, count), 0.0);
  return flat.view(moment.sizes());
}

enum class Rule { reset, magnitude, random };

struct Case {
  const char* name;
  const char* yaml;
  Rule rule;
  double pruned;
};

class ReloraTraining : public ::testing::TestWithParam<Case> {
 protected:
  // W + s B A into W; the new A is the run's own, after a look at its range; the moments by the rule.
  void restart(TextbookFactors& textbook, Rig& rig) {
    const auto state = rig.state();
    const auto parameters = rig.run.parameters();
    for (const auto& linear : textbook.linears) {
      textbook.base[linear] = textbook.weight(linear).detach();
      const at::Tensor a = parameters.at(linear + ".lora_A")->value;
      const double bound = 1.0 / std::sqrt(static_cast<double>(a.size(1)));
      EXPECT_LE(a.abs().max().item<double>(), bound);
      EXPECT_NEAR(a.square().mean().item<double>(), bound * bound / 3.0, 0.3 * bound * bound / 3.0);
      EXPECT_GT(test::relative(a, textbook.leaves.at(linear + ".lora_A").value), 0.5);
      textbook.leaves.at(linear + ".lora_A").value = a.to(at::kDouble).clone();
      at::Tensor& b = textbook.leaves.at(linear + ".lora_B").value;
      b = at::zeros_like(b);
    }
    for (auto& [name, leaf] : textbook.leaves) {
      if (!leaf.factor) continue;
      if (GetParam().rule == Rule::reset) leaf.steps = 0;
      for (const auto& [moment, key] : {std::pair<at::Tensor*, const char*>{&leaf.m, "exp_avg"}, {&leaf.v, "exp_avg_sq"}}) {
        if (GetParam().rule == Rule::reset) moment->zero_();
        if (GetParam().rule == Rule::magnitude) *moment = without_smallest(*moment, GetParam().pruned);
        if (GetParam().rule == Rule::random) {
          const at::Tensor kept = state.tensors.at(concat("optimizer/", name, "/", key)).ne(0.0);
          kept_ += kept.sum().item<std::int64_t>();
          all_ += kept.numel();
          *moment = *moment * kept;
        }
      }
    }
  }
  std::int64_t kept_ = 0, all_ = 0;
};

TEST_P(ReloraTraining, FollowsAutogradAndAdamWWrittenOutThroughTwoRestarts) {
  TextbookRig rig(options_of(GetParam().yaml));
  TextbookFactors textbook(rig.run, 1.5);
  const std::map<std::int64_t, double> ramp = {{6, 0.0}, {7, 1.0 / 3.0}, {8, 2.0 / 3.0}, {13, 0.0}, {14, 1.0 / 3.0}, {15, 2.0 / 3.0}};
  for (std::int64_t step = 0; step < 20; ++step) {
    const double lr = ramp.contains(step) ? kTextbookLr * ramp.at(step) : kTextbookLr;
    const double expected = textbook.step(textbook_batch(step), lr);
    const StepReport report = rig.trainer.step();
    EXPECT_NEAR(report.loss, expected, 1e-5) << "step " << step;
    EXPECT_NEAR(report.lr, lr, 1e-12) << "step " << step;
    const bool restarts = step == 5 || step == 12;
    EXPECT_EQ(report.method.merged, restarts) << "step " << step;
    if (!restarts) continue;
    EXPECT_LT(textbook.distance(rig.run), 1e-4);
    restart(textbook, rig);
    EXPECT_LT(textbook.distance(rig.run), 1e-4);   // a restart does not move the product
    EXPECT_EQ(report.method.layers.size(), 14U);
    EXPECT_FALSE(report.method.layers[0].retained_update);   // nothing is lost in fp32
  }
  EXPECT_LT(textbook.distance(rig.run), 1e-4);
  EXPECT_EQ(rig.run.method->merges(), 2);
  if (GetParam().rule != Rule::random) return;
  const double share = 1.0 - GetParam().pruned;
  EXPECT_NEAR(static_cast<double>(kept_), share * static_cast<double>(all_), 5.0 * std::sqrt(share * static_cast<double>(all_)));
}

INSTANTIATE_TEST_SUITE_P(Moments, ReloraTraining,
                         ::testing::Values(Case{"paper", "factor: fp32", Rule::magnitude, 0.99},
                                           Case{"magnitude", "moments: {kind: magnitude, pruned: 0.4}", Rule::magnitude, 0.4},
                                           Case{"random", "moments: {kind: random, pruned: 0.9}", Rule::random, 0.9},
                                           Case{"reset", "moments: {kind: reset}", Rule::reset, 1.0}),
                         [](const auto& info) { return info.param.name; });

// Restarts at 3 and 7; a state saved at 4 is within a warm-up.
class ReloraMethods : public ::testing::TestWithParam<Trained> {};

TEST_P(ReloraMethods, ResumeBitForBit) { test::expect_resumes_bit_for_bit(GetParam(), 4, 6); }

TEST_P(ReloraMethods, TrainOnRanksMicroBatchesAndByLayerAsAtOnce) {
  for (const bool per_layer : {false, true}) {
    test::expect_ranks_change_nothing(GetParam(), per_layer, 10);
    test::expect_accumulation_changes_nothing(GetParam(), per_layer, 10);
  }
  test::expect_updates_by_layer_change_nothing(GetParam(), 10);
  test::expect_plan_is_what_is_held(GetParam());
}

// Pruned second moments begin again at a thousandth of a squared gradient, which magnifies last bits; so does a flipped code.
#define KUMIKO_RESTARTS "rank: 8, alpha: 8, schedule: {kind: at_steps, steps: [3, 7]}, restart_warmup_steps: 2, "
INSTANTIATE_TEST_SUITE_P(
    Recipes, ReloraMethods,
    ::testing::Values(Trained{"reset", "relora", "{" KUMIKO_RESTARTS "moments: {kind: reset}}", 1e-5, kTextbookOptimizer},
                      Trained{"magnitude", "relora", "{" KUMIKO_RESTARTS "moments: {kind: magnitude}}", 1e-3, kTextbookOptimizer},
                      Trained{"random", "relora", "{" KUMIKO_RESTARTS "moments: {kind: random, pruned: 0.5}}", 1e-2, kTextbookOptimizer},
                      Trained{"nf4_stochastic", "relora",
                              "{" KUMIKO_RESTARTS "moments: {kind: reset}, quantization: {weights: nf4, rounding: stochastic}}", 1e-2,
                              kTextbookOptimizer}),
    [](const auto& info) { return info.param.name; });

// At a restart B is zero and A's gradient with it: no rule divides by that.
TEST(Relora, RestartsUnderEveryOptimizer) {
  for (const char* optimizer : {"adam8bit", "adafactor", "sgd", "muon", "column_norm"}) {
    SCOPED_TRACE(optimizer);
    const std::string rule = concat("{name: ", optimizer, "}");
    test::expect_resumes_bit_for_bit({"", "relora", "{" KUMIKO_RESTARTS "moments: {kind: magnitude}}", 0.0, rule.c_str()}, 4, 5);
    Rig rig(test::rig_options({"", "relora", "{" KUMIKO_RESTARTS "moments: {kind: magnitude}}", 0.0, rule.c_str()}));
    for (const StepReport& report : rig.steps(10)) {
      EXPECT_FALSE(report.skipped);
      EXPECT_LT(report.loss, 6.0);
    }
  }
}

TEST(Relora, RanksHoldTheSameBitsOfQuantizedWeightsThroughRestarts) {
  for (const char* rounding : {"nearest", "stochastic"}) {
    std::array<kumiko::test::MemoryState, 2> states;
    std::array<StepReport, 2> last;
    dist::run_thread_group(2, [&](dist::Communicator& comm) {
      const auto own = [&comm](std::int64_t) { return kumiko::test::Batches{test::sequences(true)[static_cast<std::size_t>(comm.rank())]}; };
      Rig rig(options_of(concat("quantization: {weights: nf4, rounding: ", rounding, "}")), own, &comm);
      const auto rank = static_cast<std::size_t>(comm.rank());
      last[rank] = rig.steps(13).back();
      rig.steps(2);
      states[rank] = rig.state();
    });
    kumiko::test::expect_same_state(states[1], states[0]);
    ASSERT_EQ(last[0].method.layers.size(), 14U);
    for (std::size_t i = 0; i < 14; ++i) {
      EXPECT_EQ(last[0].method.layers[i].retained_update, last[1].method.layers[i].retained_update);
      EXPECT_EQ(last[0].method.layers[i].weight_error, last[1].method.layers[i].weight_error);
      EXPECT_GT(*last[0].method.layers[i].weight_error, 0.0);
    }
  }
}

// Q(W + U) - W along U, from the weights before and behind the restart.
TEST(Relora, TellsTheShareOfEachUpdateThatTheRequantizedWeightKept) {
  TextbookRig rig(options_of("quantization: {weights: nf4, double_quant: false}"));
  rig.steps(5);
  std::map<std::string, at::Tensor> before, update;
  rig.model.after_backward = [&](BackwardMode) {   // of the last step before the restart: its update is added below
    for (Linear* linear : rig.run.model->linears()) {
      before[linear->spec().name] = dynamic_cast<LoraLinear&>(*linear).weight().dequantize(at::kFloat);
    }
  };
  // The factors as the optimizer leaves them: a run that restarts later takes the same step.
  TextbookRig later(textbook_options("relora", "{rank: 8, alpha: 12, schedule: {kind: at_steps, steps: [50]}, restart_warmup_steps: 3, "
                                               "quantization: {weights: nf4, double_quant: false}}"));
  later.steps(6);
  const StepReport report = rig.trainer.step();
  double smallest = 1.0;
  for (const auto& layer : report.method.layers) {
    const at::Tensor w = before.at(layer.name);
    at::Tensor merged, stored;
    for (Linear* linear : later.run.model->linears()) {
      if (linear->spec().name == layer.name) merged = linear->effective_weight();
    }
    for (Linear* linear : rig.run.model->linears()) {
      if (linear->spec().name == layer.name) stored = linear->effective_weight();
    }
    const at::Tensor u = merged - w;
    EXPECT_NEAR(*layer.retained_update, ((stored - w) * u).sum().item<double>() / u.square().sum().item<double>(), 1e-3) << layer.name;
    EXPECT_NEAR(*layer.weight_error, test::relative(stored, merged), 1e-3) << layer.name;
    smallest = std::min(smallest, *layer.retained_update);
  }
  EXPECT_LT(smallest, 0.98);
  EXPECT_GT(report.method.weight_error, 0.01);
}

TEST(ReloraRecipe, HasTheDefaultsOfThePaper) {
  const auto options = ReloraOptions::parse(ConfigNode::parse_text("{}", "r.yaml"), 512, 20000);
  EXPECT_EQ(options.schedule.steps(), (std::vector<std::int64_t>{0, 5000, 10000, 15000}));
  // A restart is due as long as steps at the full rate follow: the smallest of the published runs has one.
  const auto due = [](std::int64_t total) { return ReloraOptions::parse(ConfigNode::parse_text("{}", "r.yaml"), 512, total).schedule.steps(); };
  EXPECT_EQ(due(10000), (std::vector<std::int64_t>{0, 5000}));
  EXPECT_EQ(due(5051), (std::vector<std::int64_t>{0, 5000}));
  EXPECT_EQ(due(5050), (std::vector<std::int64_t>{0}));
  EXPECT_EQ(options.restart_warmup_steps, 50);
  EXPECT_EQ(options.moments, RestartMoments::magnitude);
  EXPECT_EQ(options.pruned, 0.99);
  EXPECT_FALSE(options.lora.storage.quantized());
}

TEST(ReloraRecipe, RefusesEachBadKey) {
  const auto expect = [](const char* yaml, std::vector<const char*> says) {
    const std::string message = refusal("relora", yaml);
    for (const char* part : says) EXPECT_THAT(message, HasSubstr(part)) << yaml;
  };
  expect("{rank: 17}", {"method.rank 17", "at most 16"});
  expect("{alpha: -1}", {"alpha", "-1"});
  expect("{restart_warmup_steps: -1}", {"restart_warmup_steps", "-1"});
  expect("{schedule: {kind: static, tau: 50}, restart_warmup_steps: 50}", {"restart_warmup_steps", "found 50", "50 steps from a restart to the next"});
  expect("{schedule: {kind: at_steps, steps: [100, 110]}}", {"restart_warmup_steps", "10 steps from"});
  expect("{schedule: {kind: daily}}", {"schedule.kind", "daily", "static"});
  expect("{moments: {kind: forget}}", {"moments.kind", "forget", "magnitude"});
  expect("{moments: {pruned: 1.5}}", {"moments.pruned", "1.5"});
  expect("{moments: {kind: reset, pruned: 0.5}}", {"moments.pruned", "no effect with kind 'reset'"});
  expect("{quantization: {basis: nf4}}", {"quantization.basis", "unknown"});
  expect("{quantization: {rounding: up}}", {"rounding", "up", "stochastic"});
  expect("{restart_every: 5}", {"restart_every", "unknown"});
  EXPECT_EQ(refusal("relora", "{rank: 16, schedule: {kind: static, tau: 60}, quantization: {rounding: stochastic, weights: nf4}}"), "");
}

}  // namespace
}  // namespace kumiko::lowrank
