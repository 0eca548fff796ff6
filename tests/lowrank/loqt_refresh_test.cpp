// SPDX-License-Identifier: Apache-2.0
// LoQT beyond the paper: which layers a refresh takes, when, with which rank, and what a merge keeps.
#include <limits>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/thread_group.hpp"
#include "lowrank/loqt_linear.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::expect_same_report;
using kumiko::test::expect_same_state;
using kumiko::test::Rig;
using kumiko::test::RigOptions;

constexpr std::size_t kLayers = 14;

RigOptions loqt(const std::string& yaml, const char* method = "loqt") {
  RigOptions options{.method = method, .method_yaml = yaml};
  options.train.steps = 60;
  return options;
}

std::vector<LoqtLinear*> layers_of(Rig& rig) {
  std::vector<LoqtLinear*> layers;
  for (Linear* linear : rig.run.model->linears()) layers.push_back(&dynamic_cast<LoqtLinear&>(*linear));
  return layers;
}

// Eight sequences a step over `ranks` ranks.
kumiko::test::StepSource::Make shared_batches(int rank, int ranks) {
  return [=](std::int64_t step) {
    const data::Batch all = kumiko::test::padded_batch({9, 4, 11, 7, 5, 12, 8, 6}, static_cast<std::uint64_t>(step) + 1);
    const std::int64_t share = 8 / ranks;
    return kumiko::test::Batches{kumiko::test::rows_of(all, rank * share, share)};
  };
}

// Interrupted at every step of [first, last): a resumed run takes the same steps.
void expect_resumable(const RigOptions& options, int first, int last, int total) {
  Rig unbroken(options);
  const auto expected = unbroken.steps(total);
  for (int stop = first; stop < last; ++stop) {
    Rig before(options), after(options);
    before.steps(stop);
    after.trainer.load(before.state());
    for (int i = stop; i < total; ++i) expect_same_report(after.trainer.step(), expected[static_cast<std::size_t>(i)]);
    expect_same_state(after.state(), unbroken.state());
  }
}

TEST(RetainedUpdate, IsTheShareOfTheFoldedUpdateThatIsStillThere) {
  const at::Tensor initial = at::randn({48, 32}) * 0.1;
  const at::Tensor basis = std::get<0>(at::linalg_qr(at::randn({32, 4})));
  for (const double size : {1e-4, 1e-2, 1.0}) {
    for (const int iterations : {0, 5}) {
      LoqtLinear layer({"layer", LinearKind::mlp, 32, 48}, initial, {.rank = 4, .compensation_iterations = iterations});
      layer.commit(layer.prepare_merge(Projector(Side::input, basis, {quant::CodecKind::none})));
      layer.factor().value.copy_(at::randn({4, 48}) * size);
      const at::Tensor stored = layer.weight().dequantize(at::kFloat);
      const at::Tensor update = (layer.effective_weight() - stored).to(at::kDouble);
      const at::Tensor next = std::get<0>(at::linalg_qr(at::randn({32, 4})));
      auto merge = layer.prepare_merge(Projector(Side::input, next, {quant::CodecKind::none}));
      const MergeResult result = merge.result;
      const at::Tensor merged = layer.effective_weight();
      layer.commit(std::move(merge));
      const at::Tensor kept = (layer.effective_weight() - stored).to(at::kDouble);
      const double expected = ((kept * update).sum() / update.square().sum()).item<double>();
      ASSERT_TRUE(result.retained_update.has_value());
      EXPECT_NEAR(*result.retained_update, expected, 1e-3 * std::max(1.0, std::abs(expected))) << size << ", " << iterations;
      EXPECT_NEAR(result.weight_error, (at::norm(layer.effective_weight() - merged) / at::norm(merged)).item<double>(), 1e-5);
      // Without compensation an update below the grid's spacing vanishes, and a large one stays.
      if (iterations == 0 && size < 1e-3) {
        EXPECT_LT(std::abs(*result.retained_update), 0.6);
      } else if (iterations == 0 && size == 1.0) {
        EXPECT_NEAR(*result.retained_update, 1.0, 0.1);
      }
    }
  }
}

TEST(RetainedUpdate, IsAllOfItForUnquantizedWeightsAndNothingWhereNothingWasFolded) {
  Rig rig(loqt("{rank: 8, schedule: {kind: static, tau: 5}}", "loqt_nq"));
  for (const auto& report : rig.steps(6)) {
    if (!report.probe) continue;
    ASSERT_EQ(report.method.layers.size(), kLayers);
    for (const auto& layer : report.method.layers) {
      EXPECT_EQ(layer.retained_update.has_value(), report.step > 0) << layer.name;
      if (layer.retained_update) {
        EXPECT_NEAR(*layer.retained_update, 1.0, 1e-4) << layer.name;
      }
      EXPECT_GT(layer.captured_energy.value_or(0.0), 0.0);
      EXPECT_TRUE(layer.weight_error.has_value());
    }
  }
}

TEST(Staggered, MergesAFewLayersBesideEachUpdate) {
  Rig rig(loqt("{rank: 8, schedule: {kind: static, tau: 10}, refresh: {stagger: 4}}"));
  std::multiset<std::string> merged;
  for (const auto& report : rig.steps(20)) {
    EXPECT_EQ(report.grad_norm > 0.0, report.step > 0);   // only the first step is without an update
    const std::size_t expected = report.step == 0 ? kLayers : report.step < 10 ? 0 : report.step < 13 ? 4 : report.step == 13 ? 2 : 0;
    EXPECT_EQ(report.method.layers.size(), expected) << report.step;
    EXPECT_EQ(report.method.merged, report.step >= 10 && report.step <= 13);
    if (!report.method.merged) continue;
    for (const auto& layer : report.method.layers) merged.insert(layer.name);
  }
  EXPECT_EQ(merged.size(), kLayers);
  for (const auto& name : merged) EXPECT_EQ(merged.count(name), 1U) << name;
  EXPECT_EQ(rig.run.method->merges(), 1);
}

TEST(Staggered, ResumesInTheMiddleOfARound) {
  expect_resumable(loqt("{rank: 8, schedule: {kind: static, tau: 6}, refresh: {stagger: 4}}"), 6, 11, 14);
}

// Makes what the probe of step `poisoned` collects non-finite.
void poison(Rig& rig, std::int64_t poisoned) {
  rig.model.after_backward = [&rig, poisoned](BackwardMode mode) {
    if (mode != BackwardMode::probe || rig.trainer.next_step() != poisoned) return;
    for (auto& sum : rig.run.method->accumulators()) sum.fill_(std::numeric_limits<double>::quiet_NaN());
  };
}

TEST(SkippedProbe, IsMadeUpForAtTheNextStepWhereALayerHasNoBasis) {
  Rig rig(loqt("{rank: 8, schedule: {kind: static, tau: 20}}"));
  poison(rig, 0);
  const auto reports = rig.steps(3);
  EXPECT_TRUE(reports[0].method.skipped);
  EXPECT_TRUE(reports[1].probe);
  EXPECT_FALSE(reports[1].method.merged);   // a first basis folds nothing
  EXPECT_EQ(reports[1].method.layers.size(), kLayers);
  EXPECT_FALSE(reports[2].probe);
  EXPECT_EQ(rig.run.method->merges(), 0);
}

TEST(SkippedProbe, LeavesItsLayersInTheRound) {
  Rig rig(loqt("{rank: 8, schedule: {kind: static, tau: 10}, refresh: {stagger: 5}}"));
  poison(rig, 11);
  std::multiset<std::string> merged;
  for (const auto& report : rig.steps(16)) {
    EXPECT_EQ(report.method.skipped, report.step == 11);
    EXPECT_FALSE(report.skipped);   // the update of that step is taken
    if (!report.method.merged) continue;
    for (const auto& layer : report.method.layers) merged.insert(layer.name);
  }
  EXPECT_EQ(merged.size(), kLayers);
  EXPECT_EQ(rig.run.method->merges(), 1);
}

TEST(MinRetainedUpdate, LeavesALayerToTheNextMergeAndItsFactorTraining) {
  Rig rig(loqt("{rank: 8, compensation_iterations: 0, min_retained_update: 1.0, schedule: {kind: static, tau: 5}, "
               "quantization: {block_size: 4096}}"));
  rig.steps(5);
  const auto before = rig.state();
  const StepReport report = rig.trainer.step();
  ASSERT_TRUE(report.probe);
  std::size_t left_alone = 0;
  const auto after = rig.state();
  for (const auto& layer : report.method.layers) {
    if (layer.weight_error) continue;
    ++left_alone;
    EXPECT_LT(layer.retained_update.value(), 1.0);
    for (const char* part : {".factor", ".weight/codes", ".basis/codes"}) {
      const std::string name = "model/" + layer.name + part;
      EXPECT_TRUE(kumiko::test::same_bits(after.tensors.at(name), before.tensors.at(name))) << name;
    }
  }
  EXPECT_GT(left_alone, 0U);
}

TEST(Bias, RefreshesTheLayersWhoseBasisMissesTooMuch) {
  const auto merged_of = [](double bias, const char* solver) {
    Rig rig(loqt(concat("{rank: 8, basis: {solver: ", solver, "}, schedule: {kind: static, tau: 5}, refresh: {kind: bias, bias: ", bias, "}}")));
    std::vector<std::size_t> merged;
    for (const auto& report : rig.steps(11)) {
      if (!report.probe) continue;
      merged.push_back(0);
      for (const auto& layer : report.method.layers) merged.back() += layer.weight_error ? 1U : 0U;
    }
    return merged;
  };
  for (const char* solver : {"svd", "range_finder"}) {
    EXPECT_THAT(merged_of(1.0, solver), ::testing::ElementsAre(kLayers, 0U, 0U)) << solver;
    EXPECT_THAT(merged_of(0.0001, solver), ::testing::ElementsAre(kLayers, kLayers, kLayers)) << solver;
    const auto some = merged_of(0.5, solver);
    EXPECT_EQ(some[0], kLayers);
    EXPECT_LT(some[1] + some[2], 2 * kLayers) << solver;
  }
}

TEST(Lazy, PassesOverLayersWhoseBasisHardlyTurns) {
  const auto merged_of = [](double similarity) {
    Rig rig(loqt(concat("{rank: 8, schedule: {kind: static, tau: 2}, refresh: {kind: lazy, similarity: ", similarity, ", window: 2}}")));
    std::vector<std::size_t> merged;
    for (const auto& report : rig.steps(21)) {
      if (report.step % 2 == 0) merged.push_back(report.method.layers.size());
    }
    return merged;
  };
  // Always similar enough: after two similarities, at steps 2 and 4, the gap doubles, and after each further refresh again.
  EXPECT_THAT(merged_of(0.0), ::testing::ElementsAre(kLayers, kLayers, kLayers, 0U, kLayers, 0U, 0U, 0U, kLayers, 0U, 0U));
  EXPECT_THAT(merged_of(1.0), ::testing::Each(kLayers));
}

TEST(Lazy, ResumesWithTheGapsThatStand) {
  expect_resumable(loqt("{rank: 8, schedule: {kind: static, tau: 2}, refresh: {kind: lazy, similarity: 0.3, window: 2}}"), 5, 8, 14);
}

constexpr const char* kEnergy = "{rank: 6, schedule: {kind: static, tau: 6}, rank_allocation: {kind: energy, min: 2, max: 12}}";

TEST(RankAllocation, DividesTheFactorsAmongTheLayersAtAMerge) {
  Rig rig(loqt(kEnergy));
  const auto reports = rig.steps(20);
  std::int64_t elements = 0, budget = 0;
  std::set<std::int64_t> ranks;
  for (LoqtLinear* layer : layers_of(rig)) {
    const std::int64_t cost = std::max(layer->spec().in_features, layer->spec().out_features);
    elements += layer->factor().value.numel();
    budget += 6 * cost;
    EXPECT_EQ(layer->factor().value.numel(), layer->rank() * cost);
    EXPECT_EQ(layer->projector().rank(), layer->rank());
    EXPECT_EQ(layer->factor().grad.sizes(), layer->factor().value.sizes());
    EXPECT_EQ(rig.run.optimizer->state_tensors(layer->factor().name)[0].sizes(), layer->factor().value.sizes());
    EXPECT_GE(layer->rank(), 2);
    EXPECT_LE(layer->rank(), 12);
    ranks.insert(layer->rank());
  }
  EXPECT_LE(elements, budget);
  EXPECT_GT(elements, budget - 43);   // less than one direction of the widest layer is left
  EXPECT_GT(ranks.size(), 2U);
  for (const auto& layer : reports[6].method.layers) EXPECT_TRUE(layer.rank.has_value());
}

TEST(RankAllocation, ResumesWithTheRanksThatStand) {
  for (const char* moments : {"rotate", "reset"}) {
    expect_resumable(loqt(concat("{moments: ", moments, ", ", std::string(kEnergy).substr(1))), 5, 9, 14);
  }
}

// The gradient of the first step is the same whatever the ranks.
TEST(RankAllocation, ReportsTheEnergyOfTheDirectionsItKept) {
  const std::string rest = "rank: 6, basis: {solver: svd}, schedule: {kind: static, tau: 6}";
  Rig fixed(loqt("{" + rest + "}")), divided(loqt("{" + rest + ", rank_allocation: {kind: energy, min: 2, max: 12}}"));
  const auto expected = fixed.trainer.step().method.layers;
  const auto layers = divided.trainer.step().method.layers;
  ASSERT_EQ(layers.size(), expected.size());
  std::size_t fewer = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const double change = *layers[i].captured_energy - *expected[i].captured_energy;
    if (*layers[i].rank == 6) {
      EXPECT_NEAR(change, 0.0, 1e-6) << layers[i].name;
    } else {
      EXPECT_EQ(change < 0.0, *layers[i].rank < 6) << layers[i].name;
    }
    fewer += *layers[i].rank < 6 ? 1U : 0U;
  }
  EXPECT_GT(fewer, 0U);
}

// What ranks compute together is what one rank computes alone, up to a code that a merge flips.
TEST(RankAllocation, IsTheSameOnEveryRank) {
  Rig alone(loqt(kEnergy), shared_batches(0, 1));
  const auto expected = alone.steps(6);
  std::vector<kumiko::test::MemoryState> states(2);
  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    Rig rig(loqt(kEnergy), shared_batches(comm.rank(), 2), &comm);
    for (const auto& report : rig.steps(14)) {
      if (report.step < 6) {
        EXPECT_NEAR(report.loss, expected[static_cast<std::size_t>(report.step)].loss, 1e-5);
      }
    }
    states[static_cast<std::size_t>(comm.rank())] = rig.state();
  });
  expect_same_state(states[0], states[1]);
}

TEST(StochasticRounding, IsDrawnAnewAtEachMergeAndResumes) {
  const auto options = loqt("{rank: 8, schedule: {kind: static, tau: 5}, quantization: {rounding: stochastic}}");
  expect_resumable(options, 4, 8, 12);
  Rig nearest(loqt("{rank: 8, schedule: {kind: static, tau: 5}}")), stochastic(options);
  nearest.steps(6);   // equal up to the merge of trained factors: the initial weights are on the grid
  stochastic.steps(6);
  const std::string codes = "model/model.layers.0.mlp.up_proj.weight/codes";
  EXPECT_FALSE(at::equal(nearest.state().tensors.at(codes), stochastic.state().tensors.at(codes)));
}

}  // namespace
}  // namespace kumiko::lowrank
