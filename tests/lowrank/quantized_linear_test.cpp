// SPDX-License-Identifier: Apache-2.0
// Weights that are trained in the form they are stored in, by method `full`.
#include "lowrank/quantized_linear.hpp"

#include <gmock/gmock.h>

#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/lowrank/training_checks.hpp"

namespace kumiko::lowrank {
namespace {

using ::testing::HasSubstr;
using kumiko::test::Rig;
using test::relative;
using test::Trained;

constexpr quant::QuantFormat kInt8{quant::CodecKind::int8, 128, false};

QuantizedLinear layer_of(const at::Tensor& weight, const quant::QuantFormat& format, Rounding rounding, std::uint64_t seed = 7,
                         at::ScalarType dense_dtype = at::kFloat) {
  return QuantizedLinear({"layer", LinearKind::mlp, weight.size(1), weight.size(0)}, weight,
                         {.weights = format, .rounding = rounding, .dense_dtype = dense_dtype, .seed = seed});
}

void update(QuantizedLinear& layer, at::Tensor by, double decay = 0.0) { layer.parameters()[0]->target->apply_update(by, decay); }

TEST(QuantizedLinear, MultipliesByItsStoredWeightAndGivesTheDenseGradients) {
  const at::Tensor weight = test::normal({24, 40}, 1), x = test::normal({5, 40}, 2), dy = test::normal({5, 24}, 3);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    QuantizedLinear layer = layer_of(weight, {quant::CodecKind::nf4, 64, true}, Rounding::nearest);
    const at::Tensor stored = layer.effective_weight();
    EXPECT_GT(relative(stored, weight), 1e-2);
    Parameter& parameter = *layer.parameters()[0];
    parameter.grad = at::ones({24, 40}, at::kFloat);
    const double tolerance = dtype == at::kFloat ? 1e-6 : 1e-2;
    EXPECT_LT(relative(layer.forward(x.to(dtype)), at::mm(x, stored.t())), tolerance);
    at::Tensor dx = at::ones({5, 40}, at::TensorOptions().dtype(dtype));
    layer.backward(x.to(dtype), dy.to(dtype), &dx, BackwardMode::update);
    EXPECT_LT(relative(dx, at::mm(dy, stored) + 1.0), tolerance);
    EXPECT_LT(relative(parameter.grad, at::mm(dy.t(), x) + 1.0), tolerance);
    layer.backward(x.to(dtype), dy.to(dtype), nullptr, BackwardMode::probe);
    EXPECT_LT(relative(parameter.grad, at::mm(dy.t(), x) + 1.0), tolerance);
  }
}

TEST(QuantizedLinear, ShrinksMovesAndRoundsToTheNearestLevel) {
  const at::Tensor weight = test::normal({8, 128}, 1), by = test::normal({8, 128}, 2, 0.1);
  QuantizedLinear layer = layer_of(weight, kInt8, Rounding::nearest);
  const at::Tensor wanted = 0.75 * layer.effective_weight().to(at::kDouble) + by.to(at::kDouble);
  update(layer, by.clone(), 0.25);
  const at::Tensor step = wanted.abs().amax(1, true) / 127.0;   // a row is a block
  EXPECT_LE(((layer.effective_weight() - wanted).abs() / step).max().item<double>(), 0.5 + 1e-4);
  EXPECT_EQ(layer.updates(), 1);
}

// Of updates far below half a level nearest rounding keeps nothing, stochastic rounding all in expectation.
TEST(QuantizedLinear, StochasticRoundingKeepsSmallUpdates) {
  at::Tensor weight = test::normal({64, 128}, 1, 0.1);
  weight.select(1, 0).fill_(1.0);   // levels of 1 / 127
  const double small = 0.05 / 127.0;
  for (const Rounding rounding : {Rounding::nearest, Rounding::stochastic}) {
    QuantizedLinear layer = layer_of(weight, kInt8, rounding);
    const at::Tensor start = layer.effective_weight();
    for (int i = 0; i < 40; ++i) {
      at::Tensor by = at::full({64, 128}, small);
      by.select(1, 0).zero_();
      update(layer, by);
    }
    const at::Tensor moved = (layer.effective_weight() - start).narrow(1, 1, 127) / small;
    if (rounding == Rounding::nearest) {
      EXPECT_EQ(moved.abs().max().item<float>(), 0.0F);
    } else {
      EXPECT_NEAR(moved.mean().item<float>(), 40.0F, 0.1F * 40.0F);   // 8128 elements of variance near 40 * 20
    }
  }
}

TEST(QuantizedLinear, RandomNumbersAreOfSeedNameAndCountAndSurviveALoad) {
  const at::Tensor weight = test::normal({16, 128}, 1);
  const auto step = [](QuantizedLinear& layer, std::uint64_t seed) { update(layer, test::normal({16, 128}, seed, 0.01)); };
  QuantizedLinear a = layer_of(weight, kInt8, Rounding::stochastic), other = layer_of(weight, kInt8, Rounding::stochastic, 8);
  step(a, 2);
  step(other, 2);
  EXPECT_FALSE(at::equal(a.effective_weight(), other.effective_weight()));
  kumiko::test::MemoryState state;
  a.save(state);
  QuantizedLinear b = layer_of(weight, kInt8, Rounding::stochastic);
  b.load(state);
  step(a, 3);
  step(b, 3);
  EXPECT_TRUE(at::equal(a.effective_weight(), b.effective_weight()));
  QuantizedLinear nf4 = layer_of(weight, {quant::CodecKind::nf4, 64, true}, Rounding::nearest);
  EXPECT_THAT(test::message_of<CheckpointError>([&] { nf4.load(state); }), HasSubstr("layer.weight"));
}

TEST(QuantizedLinear, KeepsBf16WeightsByStochasticRounding) {
  QuantizedLinear layer = layer_of(at::ones({64, 128}), test::kDense, Rounding::stochastic, 7, at::kBFloat16);
  for (int i = 0; i < 40; ++i) update(layer, at::full({64, 128}, 1e-4));   // bf16 above 1: steps of 2^-7
  EXPECT_NEAR(layer.effective_weight().mean().item<float>(), 1.004F, 3e-4F);
  EXPECT_EQ(layer.frozen_nbytes(), 2 * 64 * 128);
}

class QuantizedTraining : public ::testing::TestWithParam<Trained> {};

// Adam by its equations on the decoded weights of each step, then the nearest level.
TEST_P(QuantizedTraining, MovesTheStoredWeightsByTheOptimizer) {
  Rig rig(test::rig_options(GetParam()), [](std::int64_t) { return test::sequences(false); });
  std::map<std::string, at::Tensor> m, v;
  for (int t = 1; t <= 4; ++t) {
    const auto seen = test::observe_step(rig);
    for (Linear* linear : rig.model.linears()) {
      const auto* layer = dynamic_cast<QuantizedLinear*>(linear);
      ASSERT_NE(layer, nullptr) << linear->spec().name;
      const std::string name = linear->spec().name + ".weight";
      const at::Tensor g = seen.gradient.at(name).to(at::kDouble);
      m[name] = t == 1 ? 0.1 * g : 0.9 * m[name] + 0.1 * g;
      v[name] = t == 1 ? 0.001 * g * g : 0.999 * v[name] + 0.001 * g * g;
      const at::Tensor direction = (m[name] / (1 - std::pow(0.9, t))) / ((v[name] / (1 - std::pow(0.999, t))).sqrt() + 1e-6);
      const at::Tensor wanted = (seen.before.at(name) - seen.lr * direction).to(at::kFloat);
      const at::Tensor rounded = quant::QuantizedTensor::quantize(wanted, layer->weight().format()).dequantize(at::kFloat);
      const at::Tensor same = (seen.after.at(name) - rounded).abs().lt(1e-4);
      EXPECT_GT(same.to(at::kFloat).mean().item<float>(), 0.99F) << name << ", update " << t;
    }
  }
}

TEST_P(QuantizedTraining, ResumesBitForBit) { test::expect_resumes_bit_for_bit(GetParam()); }

TEST_P(QuantizedTraining, IsTheSameOnTwoRanks) {
  test::expect_ranks_change_nothing(GetParam(), false);
  test::expect_ranks_change_nothing(GetParam(), true);
}

TEST_P(QuantizedTraining, IsTheSameWithAccumulationAndUpdatesByLayer) {
  test::expect_accumulation_changes_nothing(GetParam(), false);
  test::expect_accumulation_changes_nothing(GetParam(), true);
  test::expect_updates_by_layer_change_nothing(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizedTraining,
                         ::testing::Values(Trained{"int8", "full", "{quantization: {weights: int8, double_quant: false}}", 1e-3},
                                           Trained{"nf4", "full", "{quantization: {weights: nf4, block_size: 32}}", 1e-2}),
                         [](const auto& info) { return info.param.name; });

TEST(QuantizedTrainingStochastic, ResumesAndIsTheSameOnTwoRanks) {
  const Trained int8{"int8", "full", "{quantization: {weights: int8, rounding: stochastic}}", 1e-2};
  test::expect_resumes_bit_for_bit(int8);
  test::expect_ranks_change_nothing(int8, true);
}

TEST(FullRecipe, RefusesBadKeys) {
  const auto refusal = [](const char* yaml) {
    return test::message_of<UsageError>([&] {
      kumiko::test::TinyRun run("full", yaml);
      run.config.finish();
    });
  };
  EXPECT_EQ(refusal("{targets: mlp, quantization: {weights: int4, block_size: 128, double_quant: false, rounding: stochastic}}"), "");
  EXPECT_THAT(refusal("{quantization: {weights: int9}}"), HasSubstr("quantization.weights"));
  EXPECT_THAT(refusal("{quantization: {basis: nf4}}"), HasSubstr("quantization.basis"));
  EXPECT_THAT(refusal("{quantization: {rounding: up}}"), HasSubstr("nearest, stochastic"));
  EXPECT_THAT(refusal("{quantization: {block_size: 16}}"), HasSubstr("block_size"));
  EXPECT_THAT(refusal("{targets: head}"), HasSubstr("unknown target 'head'"));
  EXPECT_THAT(refusal("{rank: 8}"), HasSubstr("rank"));
}

}  // namespace
}  // namespace kumiko::lowrank
