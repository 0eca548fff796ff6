// SPDX-License-Identifier: Apache-2.0
// LoRA and QLoRA: the layer, training by independent arithmetic, and what they owe the trainer.
#include "lowrank/methods/lora.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/lowrank/textbook_factors.hpp"
#include "tests/lowrank/training_checks.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::kTextbookLr;
using kumiko::test::kTextbookOptimizer;
using kumiko::test::RigOptions;
using kumiko::test::textbook_batch;
using kumiko::test::textbook_options;
using kumiko::test::TextbookFactors;
using kumiko::test::TextbookRig;
using test::normal;
using test::refusal;
using test::relative;
using test::Trained;
using ::testing::HasSubstr;

LoraLinear make(const quant::QuantFormat& format, at::ScalarType factor = at::kFloat) {
  return {LinearSpec{"layer", LinearKind::mlp, 48, 40}, normal({40, 48}, 1, 0.2), LoraLinearOptions{6, 0.7, format, factor}, 9};
}

class LoraLinears : public ::testing::TestWithParam<quant::QuantFormat> {};

// Below and above in * out / (in + out) rows: the factors applied apart, and folded into the weight.
TEST_P(LoraLinears, ForwardAndGradientsEqualAutogradOnBothRoutes) {
  LoraLinear linear = make(GetParam());
  linear.factors().b().value.copy_(normal({40, 6}, 3, 0.3));
  for (Parameter* p : linear.parameters()) p->grad = at::zeros(p->value.sizes());
  const at::Tensor w = linear.weight().dequantize(at::kFloat).to(at::kDouble);
  for (const std::int64_t rows : {5, 200}) {
    const at::Tensor x = normal({rows, 48}, 4), dy = normal({rows, 40}, 5);
    at::Tensor leaf_x = x.to(at::kDouble).set_requires_grad(true);
    at::Tensor a = linear.factors().a().value.to(at::kDouble).set_requires_grad(true);
    at::Tensor b = linear.factors().b().value.to(at::kDouble).set_requires_grad(true);
    const at::Tensor y = at::mm(leaf_x, w.t()) + 0.7 * at::mm(at::mm(leaf_x, a.t()), b.t());
    y.backward(dy.to(at::kDouble));
    EXPECT_LT(relative(linear.forward(x), y.detach()), 1e-6) << rows;
    EXPECT_LT(relative(linear.forward(x.to(at::kBFloat16)), y.detach()), 0.015) << rows;
    for (Parameter* p : linear.parameters()) p->grad.zero_();
    at::Tensor dx;
    linear.backward(x, dy, &dx, BackwardMode::update);
    linear.backward(x, dy, &dx, BackwardMode::update);   // adds to what is there
    EXPECT_LT(relative(dx, 2.0 * leaf_x.grad()), 1e-5) << rows;
    EXPECT_LT(relative(linear.factors().a().grad, 2.0 * a.grad()), 1e-5) << rows;
    EXPECT_LT(relative(linear.factors().b().grad, 2.0 * b.grad()), 1e-5) << rows;
    for (Parameter* p : linear.parameters()) p->grad.zero_();
    at::Tensor probed;
    linear.backward(x, dy, &probed, BackwardMode::probe);
    EXPECT_LT(relative(probed, leaf_x.grad()), 1e-5) << rows;
    EXPECT_EQ(at::norm(linear.factors().b().grad).item<float>(), 0.0F);
  }
}

// A kept update is its share of the weight's move: 1 where nothing is lost, about 1 by stochastic rounding on average.
TEST_P(LoraLinears, FoldsTheProductAndTellsWhatWasLost) {
  LoraLinear linear = make(GetParam());
  linear.factors().b().value.copy_(normal({40, 6}, 3, 0.05));
  const at::Tensor before = linear.weight().dequantize(at::kFloat);
  const at::Tensor update = linear.factors().product();
  EXPECT_LT(relative(update, 0.7 * at::mm(linear.factors().b().value.to(at::kDouble), linear.factors().a().value.to(at::kDouble))), 1e-6);
  const auto loss = linear.fold(std::nullopt);
  const at::Tensor stored = linear.weight().dequantize(at::kFloat);
  EXPECT_TRUE(at::equal(stored, quant::QuantizedTensor::quantize(before + update, GetParam()).dequantize(at::kFloat)));
  ASSERT_EQ(loss.has_value(), GetParam().codec != quant::CodecKind::none);
  if (!loss) return;
  EXPECT_NEAR(loss->weight_error, relative(stored, before + update), 1e-3);
  EXPECT_NEAR(loss->retained_update.value(), ((stored - before) * update).sum().item<double>() / update.square().sum().item<double>(), 1e-4);
  EXPECT_LT(*loss->retained_update, 1.2);
  linear.factors().b().value.zero_();
  EXPECT_FALSE(linear.fold(std::nullopt)->retained_update);
}

INSTANTIATE_TEST_SUITE_P(Formats, LoraLinears,
                         ::testing::Values(test::kDense, test::kNestedNf4, quant::QuantFormat{quant::CodecKind::int8, 64, false}),
                         [](const auto& info) { return std::string(quant::codec_of(info.param.codec).name); });

TEST(LoraLinear, StartsFromTheStoredWeightWithKaimingsUniformA) {
  LoraLinear linear = make(test::kDense);
  EXPECT_TRUE(at::equal(linear.effective_weight(), normal({40, 48}, 1, 0.2)));
  const at::Tensor a = linear.factors().a().value;
  const double bound = 1.0 / std::sqrt(48.0);
  EXPECT_LE(a.abs().max().item<double>(), bound);
  EXPECT_GT(a.abs().max().item<double>(), 0.98 * bound);
  EXPECT_NEAR(a.square().mean().item<double>(), bound * bound / 3.0, 0.15 * bound * bound / 3.0);
  const at::Tensor first = a.clone();
  linear.draw_factors(10);
  EXPECT_GT(relative(linear.factors().a().value, first), 1.0);
}

struct Followed {
  const char* name;
  const char* method;
  const char* yaml;
  double scale;
};

class LoraTraining : public ::testing::TestWithParam<Followed> {};

TEST_P(LoraTraining, FollowsAutogradAndAdamWWrittenOut) {
  TextbookRig rig(textbook_options(GetParam().method, GetParam().yaml));
  TextbookFactors textbook(rig.run, GetParam().scale);
  for (std::int64_t step = 0; step < 20; ++step) {
    const double expected = textbook.step(textbook_batch(step), kTextbookLr);
    EXPECT_NEAR(rig.trainer.step().loss, expected, 1e-5) << "step " << step;
  }
  EXPECT_LT(textbook.distance(rig.run), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Methods, LoraTraining,
                         ::testing::Values(Followed{"lora", "lora", "{rank: 8, alpha: 8}", 1.0},
                                           Followed{"qlora", "qlora", "{rank: 6, alpha: 9}", 1.5}),
                         [](const auto& info) { return info.param.name; });

class LoraMethods : public ::testing::TestWithParam<Trained> {};

TEST_P(LoraMethods, ResumeBitForBit) { test::expect_resumes_bit_for_bit(GetParam()); }

TEST_P(LoraMethods, TrainOnRanksMicroBatchesAndByLayerAsAtOnce) {
  for (const bool per_layer : {false, true}) {
    test::expect_ranks_change_nothing(GetParam(), per_layer);
    test::expect_accumulation_changes_nothing(GetParam(), per_layer);
  }
  test::expect_updates_by_layer_change_nothing(GetParam());
  test::expect_plan_is_what_is_held(GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    Methods, LoraMethods,
    ::testing::Values(Trained{"lora", "lora", "{rank: 8, alpha: 8}", 1e-5, kTextbookOptimizer},
                      Trained{"qlora", "qlora", "{rank: 8, alpha: 4}", 1e-5, kTextbookOptimizer},
                      Trained{"mlp", "lora", "{rank: 8, alpha: 8, targets: mlp}", 1e-5, kTextbookOptimizer},
                      Trained{"bf16", "qlora", "{rank: 5, alpha: 5, factor: bf16, quantization: {weights: int8}}", 1e-3, kTextbookOptimizer}),
    [](const auto& info) { return info.param.name; });

// Both factors of a layer have their gradients at one time.
TEST(Lora, UpdatesByLayerMoveTheSameBitsAndHoldWhatIsPlanned) {
  RigOptions options = textbook_options("lora", "{rank: 8, alpha: 8}");
  TextbookRig whole(options);
  options.train.per_layer_updates = true;
  options.train.global_batch_size = 8;
  TextbookRig by_layer(options);
  whole.steps(6);
  by_layer.steps(6);
  kumiko::test::expect_same_state(by_layer.state(), whole.state());
  EXPECT_EQ(by_layer.trainer.gradient_nbytes(), plan_memory(options.model, *by_layer.run.method, options.train, 8, 12).gradients);
}

LoraOptions parsed(const std::string& yaml, std::string_view weights) {
  const auto node = ConfigNode::parse_text(yaml, "r.yaml");
  const auto options = LoraOptions::parse(node, {.weights = weights, .has_basis = false, .requantizes = false}, 512);
  node.finish();
  return options;
}

TEST(LoraRecipe, HasDefaultsAndReadsEveryKey) {
  const LoraOptions plain = parsed("{}", "none");
  EXPECT_EQ(plain.rank, 128);
  EXPECT_EQ(plain.alpha, 32.0);
  EXPECT_FALSE(plain.storage.quantized());
  EXPECT_EQ(parsed("{}", "nf4").storage.weights, (quant::QuantFormat{quant::CodecKind::nf4, 64, true}));
  const LoraOptions all = parsed(
      "{rank: 4, alpha: 2.5, targets: attention, quantization: {weights: int4, block_size: 128, double_quant: false}, factor: bf16}", "nf4");
  EXPECT_EQ(all.rank, 4);
  EXPECT_EQ(all.alpha, 2.5);
  EXPECT_FALSE(all.targets.mlp);
  EXPECT_EQ(all.storage.weights, (quant::QuantFormat{quant::CodecKind::int4, 128, false}));
  EXPECT_EQ(all.factor_dtype, at::kBFloat16);
}

TEST(LoraRecipe, RefusesEachBadKey) {
  const auto expect = [](const char* yaml, std::vector<const char*> says) {
    for (const char* method : {"lora", "qlora"}) {
      const std::string message = refusal(method, yaml);
      for (const char* part : says) EXPECT_THAT(message, HasSubstr(part)) << yaml;
    }
  };
  expect("{rank: 0}", {"rank", "0"});
  expect("{rank: 17}", {"method.rank 17", "k_proj", "at most 16"});
  expect("{alpha: 0}", {"alpha", "0"});
  expect("{alpha: .nan}", {"alpha"});
  expect("{aplha: 8}", {"aplha", "alpha"});
  expect("{targets: norms}", {"targets", "norms", "attention, mlp"});
  expect("{factor: fp16}", {"factor", "fp16", "bf16"});
  expect("{quantization: {weights: nf5}}", {"quantization.weights", "nf5", "nf4"});
  expect("{quantization: {block_size: 48}}", {"block size 48", "power of two"});
  expect("{quantization: {basis: nf4}}", {"quantization.basis", "unknown"});
  expect("{quantization: {rounding: stochastic}}", {"quantization.rounding", "unknown"});
  expect("{schedule: {tau: 5}}", {"schedule", "unknown"});
  EXPECT_EQ(refusal("lora", "{rank: 16}"), "");
}

}  // namespace
}  // namespace kumiko::lowrank
