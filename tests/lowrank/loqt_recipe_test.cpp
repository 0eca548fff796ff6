// SPDX-License-Identifier: Apache-2.0
// What a recipe may say of LoQT, what is refused, and the memory it plans.
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/model/adamw.hpp"
#include "lowrank/methods/loqt.hpp"
#include "tests/lowrank/loqt_test_support.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::tiny_options;
using kumiko::test::TinyRun;
using test::batches;
using test::loqt_layers;
using test::probe;
using test::train;
using ::testing::HasSubstr;

LoqtOptions parsed(const std::string& yaml, bool quantized = true) {
  const auto node = ConfigNode::parse_text(yaml, "r.yaml");
  auto options = LoqtOptions::parse(node, quantized, 512, 1000);
  node.finish();
  return options;
}

TEST(LoqtRecipe, HasTheDefaultsOfThePaper) {
  const LoqtOptions options = parsed("{}");
  EXPECT_EQ(options.rank, 128);  // a quarter of the hidden size
  EXPECT_EQ(options.scale, 0.5);
  EXPECT_TRUE(options.targets.attention && options.targets.mlp);
  EXPECT_EQ(options.storage.weights, (quant::QuantFormat{quant::CodecKind::nf4, 64, true}));
  EXPECT_EQ(options.storage.basis, options.storage.weights);
  EXPECT_EQ(options.compensation_iterations, 5);
  EXPECT_EQ(options.factor_dtype, at::kFloat);
  EXPECT_EQ(options.moments, Moments::rotate);
  const LoqtOptions dense = parsed("{}", false);
  EXPECT_EQ(dense.storage.weights.codec, quant::CodecKind::none);
  EXPECT_EQ(dense.storage.basis.codec, quant::CodecKind::none);
  EXPECT_EQ(dense.compensation_iterations, 0);
}

TEST(LoqtRecipe, ReadsEveryKey) {
  const LoqtOptions options = parsed(
      "{rank: 16, scale: 0.25, targets: mlp, quantization: {weights: nf4, basis: none, block_size: 128, "
      "double_quant: false}, "
      "basis: {solver: eigh}, compensation_iterations: 2, factor: bf16, moments: keep, schedule: {kind: "
      "static, tau: 300}}");
  EXPECT_EQ(options.rank, 16);
  EXPECT_EQ(options.scale, 0.25);
  EXPECT_FALSE(options.targets.attention);
  EXPECT_TRUE(options.targets.mlp);
  EXPECT_EQ(options.storage.weights, (quant::QuantFormat{quant::CodecKind::nf4, 128, false}));
  EXPECT_EQ(options.storage.basis.codec, quant::CodecKind::none);
  EXPECT_EQ(options.basis.solver, BasisSolver::eigh);
  EXPECT_EQ(options.compensation_iterations, 2);
  EXPECT_EQ(options.factor_dtype, at::kBFloat16);
  EXPECT_EQ(options.moments, Moments::keep);
  EXPECT_EQ(options.schedule.steps(), (std::vector<std::int64_t>{0, 300, 600}));
}

struct Bad {
  const char* name;
  const char* yaml;
  std::vector<std::string> says;
};

class BadLoqtRecipe : public ::testing::TestWithParam<Bad> {};

TEST_P(BadLoqtRecipe, IsRefusedWithItsPlaceAndTheFix) {
  const std::string message = test::message_of<UsageError>([] { parsed(GetParam().yaml); });
  EXPECT_THAT(message, HasSubstr("r.yaml:1"));
  for (const auto& part : GetParam().says) EXPECT_THAT(message, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    Keys, BadLoqtRecipe,
    ::testing::Values(
        Bad{"unknown_key", "{rnak: 8}", {"rnak", "rank"}}, Bad{"zero_rank", "{rank: 0}", {"rank", "0"}},
        Bad{"rank_word", "{rank: many}", {"rank", "many"}},
        Bad{"target", "{targets: [attention, atention]}", {"unknown target 'atention'", "attention, mlp"}},
        Bad{"codec", "{quantization: {weights: nf5}}", {"quantization.weights", "'nf5'", "none, nf4"}},
        Bad{"basis_codec", "{quantization: {basis: int9}}", {"quantization.basis", "'int9'", "none, nf4"}},
        Bad{"block", "{quantization: {block_size: 48}}", {"block size 48", "power of two"}},
        Bad{"solver", "{basis: {solver: qr}}", {"basis.solver", "qr", "range_finder"}},
        Bad{"moments", "{moments: forget}", {"moments", "forget", "rotate"}},
        Bad{"factor", "{factor: fp8}", {"factor", "fp8", "bf16"}}, Bad{"scale", "{scale: 0}", {"scale"}},
        Bad{"iterations", "{compensation_iterations: -1}", {"compensation_iterations", "-1"}},
        Bad{"schedule", "{schedule: {kind: weekly}}", {"schedule.kind", "weekly", "exponential"}},
        Bad{"schedule_tau", "{schedule: {tau: 0}}", {"schedule.tau", "0"}},
        Bad{"no_target", "{targets: []}", {"targets", "is empty"}},
        Bad{"refresh", "{refresh: {kind: some}}", {"refresh.kind", "some", "all"}},
        Bad{"bias_of_random", "{basis: {solver: random}, refresh: {kind: bias}}", {"refresh.kind", "warm_start"}},
        Bad{"lazy_of_random", "{basis: {solver: random}, refresh: {kind: lazy}}", {"refresh.kind", "random"}},
        Bad{"bias_cold", "{basis: {warm_start: false}, refresh: {kind: bias}}", {"refresh.kind", "warm_start"}},
        Bad{"retained", "{min_retained_update: 2}", {"min_retained_update", "2"}},
        Bad{"energy_of_random", "{basis: {solver: random}, rank_allocation: {kind: energy}}", {"rank_allocation.kind", "spectrum"}},
        Bad{"energy_staggered", "{refresh: {stagger: 2}, rank_allocation: {kind: energy}}", {"rank_allocation.kind", "stagger"}},
        Bad{"energy_keeps", "{moments: keep, rank_allocation: {kind: energy}}", {"moments", "rotate or reset"}},
        Bad{"energy_min", "{rank: 8, rank_allocation: {kind: energy, min: 9}}", {"rank_allocation.min", "9"}}),
    [](const auto& info) { return info.param.name; });

TEST(LoqtRecipe, RefusesARankLargerThanATargetedLayer) {
  const auto refusal = [](const char* yaml) {
    return test::message_of<UsageError>([&] { TinyRun("loqt", yaml); });
  };
  EXPECT_EQ(refusal("{rank: 17}"),
            "method.rank 17 is larger than layer model.layers.0.self_attn.k_proj [16, 32]; use at most 16");
  EXPECT_EQ(refusal("{rank: 16}"), "");
  EXPECT_EQ(refusal("{rank: 17, targets: mlp}"), "");  // k_proj stays dense
  EXPECT_THAT(refusal("{rank: 33, targets: mlp}"),
              HasSubstr("model.layers.0.mlp.gate_proj [43, 32]; use at most 32"));
}

TEST(LoqtRecipe, RefusesAStaggeredRoundLongerThanAGap) {
  const auto refusal = [](const char* yaml) {
    return test::message_of<UsageError>([&] { TinyRun("loqt", yaml, tiny_options(), {}, 100); });
  };
  EXPECT_EQ(refusal("{rank: 8, refresh: {stagger: 3}, schedule: {kind: static, tau: 5}}"), "");
  EXPECT_EQ(refusal("{rank: 8, refresh: {stagger: 3}, schedule: {kind: static, tau: 4}}"),
            "method.refresh.stagger 3 needs 5 steps for 14 layers, but method.schedule is due at 4 and 8 already; raise stagger or tau");
}

TEST(LoqtRecipe, TargetsChooseTheLayersAndTheOthersTrainDense) {
  TinyRun attention("loqt", "{rank: 8, targets: attention}");
  EXPECT_EQ(loqt_layers(attention).size(), 8U);
  for (LoqtLinear* layer : loqt_layers(attention)) EXPECT_EQ(layer->spec().kind, LinearKind::attention);
  EXPECT_TRUE(attention.parameters().contains("model.layers.0.mlp.up_proj.weight"));
  EXPECT_EQ(loqt_layers(*std::make_unique<TinyRun>("loqt", "{rank: 8, targets: mlp}")).size(), 6U);
  const auto comm = dist::make_solo();
  EXPECT_FALSE(probe(attention, 0, batches(1), *comm).skipped);
  const at::Tensor dense = attention.parameters().at("model.layers.0.mlp.up_proj.weight")->value;
  const at::Tensor before = dense.clone();
  train(attention, batches(1), 0.01, *comm);
  EXPECT_FALSE(at::equal(dense, before));
}

std::int64_t bytes_of(const at::Tensor& tensor) { return static_cast<std::int64_t>(tensor.nbytes()); }

// What a run holds for its matrices, tensor by tensor.
MemoryPlan held(TinyRun& run) {
  MemoryPlan plan;
  for (Linear* linear : run.model->linears()) {
    if (auto* layer = dynamic_cast<LoqtLinear*>(linear)) {
      const auto stored = layer->weight().storage();
      plan.weights += bytes_of(stored[0]);
      for (std::size_t i = 1; i < stored.size(); ++i) plan.scales += bytes_of(stored[i]);
      for (const auto& tensor : layer->projector().stored().storage()) plan.basis += bytes_of(tensor);
      plan.factor += bytes_of(layer->factor().value);
    } else {
      plan.weights += bytes_of(linear->parameters().at(0)->value);
    }
    for (Parameter* p : linear->parameters()) {
      plan.gradients += bytes_of(p->grad);
      for (const auto& tensor : run.optimizer->state_tensors(p->name)) {
        plan.moments += bytes_of(tensor);
      }
    }
  }
  return plan;
}

struct Planned {
  const char* name;
  const char* method;
  const char* recipe;
  at::ScalarType param_dtype = at::kFloat;
};

class LoqtPlan : public ::testing::TestWithParam<Planned> {};

TEST_P(LoqtPlan, EqualsTheBytesHeldAfterAMerge) {
  ComputeOptions compute;
  compute.param_dtype = GetParam().param_dtype;
  TinyRun run(GetParam().method, GetParam().recipe, tiny_options(), compute);
  MemoryPlan plan;
  run.method->plan(tiny_options(), plan);
  const auto comm = dist::make_solo();
  if (!run.method->begin_step(0).update) probe(run, 0, batches(1), *comm);
  train(run, batches(1), 0.01, *comm);
  const MemoryPlan expected = held(run);
  EXPECT_EQ(plan.weights, expected.weights);
  EXPECT_EQ(plan.scales, expected.scales);
  EXPECT_EQ(plan.basis, expected.basis);
  EXPECT_EQ(plan.factor, expected.factor);
  EXPECT_EQ(plan.moments, expected.moments);
  EXPECT_EQ(plan.gradients, expected.gradients);
}

INSTANTIATE_TEST_SUITE_P(
    Methods, LoqtPlan,
    ::testing::Values(Planned{"loqt", "loqt", "{rank: 8}"},
                      Planned{"plain_scales", "loqt", "{rank: 8, quantization: {double_quant: false}}"},
                      Planned{"block_32", "loqt", "{rank: 7, quantization: {block_size: 32}}"},
                      Planned{"bf16_factor", "loqt", "{rank: 8, factor: bf16}"},
                      Planned{"mlp", "loqt", "{rank: 8, targets: mlp}", at::kBFloat16},
                      Planned{"dense_basis", "loqt", "{rank: 8, quantization: {basis: none}}"},
                      Planned{"nq", "loqt_nq", "{rank: 8}"},
                      Planned{"nq_bf16", "loqt_nq", "{rank: 8}", at::kBFloat16}),
    [](const auto& info) { return info.param.name; });

// svd: the sketches of a group are its accumulators.
TEST(LoqtPlan, SketchesAreThoseOfTheLargestGroup) {
  for (const char* memory : {"64MiB", "9KiB", "1KiB"}) {
    TinyRun run("loqt", concat("{rank: 8, basis: {solver: svd, group_memory: ", memory, "}}"));
    MemoryPlan plan;
    run.method->plan(tiny_options(), plan);
    const auto comm = dist::make_solo();
    std::int64_t most = 0;
    probe(run, 0, batches(1), *comm, [&] {
      std::int64_t bytes = 0;
      for (const auto& tensor : run.method->accumulators()) bytes += bytes_of(tensor);
      most = std::max(most, bytes);
    });
    EXPECT_EQ(plan.sketches, most + plan.basis) << memory;   // new bases wait beside the old ones
  }
}

// 60M: 25 296 896 elements in NF4 with double quantization take .516 bytes each; factor 6.32 M elements;
// basis 56 x 512 x 128.
TEST(LoqtPlan, HasThePublishedSizesAt60M) {
  ModelOptions options = ModelOptions::from_preset("60m");
  options.vocab_size = 32000;
  const auto config = ConfigNode::parse_text("{rank: 128}", "r.yaml");
  const AdamWFactory rules(ConfigNode::parse_text("{}", "r.yaml"));
  const LoqtMethod method(MethodContext{config, rules, options, at::kFloat, at::kCPU, 1, 1000}, true);
  MemoryPlan plan;
  method.plan(options, plan);
  EXPECT_EQ(plan.weights, 25296896 / 2);
  EXPECT_NEAR(static_cast<double>(plan.weights + plan.scales), 0.515869 * 25296896, 0.0005 * 25296896);
  const std::int64_t factor = 8 * 128 * (4 * 512 + 3 * 1376);
  EXPECT_EQ(plan.factor, 4 * factor);
  EXPECT_EQ(plan.moments, 8 * factor + 4 * 56);   // and a step count a factor
  EXPECT_NEAR(static_cast<double>(plan.basis), 0.515869 * 56 * 512 * 128, 0.0005 * 56 * 512 * 128);
  EXPECT_LE(plan.sketches, std::int64_t{64} << 20);
}

}  // namespace
}  // namespace kumiko::lowrank
