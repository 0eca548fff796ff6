// SPDX-License-Identifier: Apache-2.0
#include "lowrank/loqt_linear.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko::lowrank {
namespace {

using test::kDense;
using test::kNestedNf4;
using test::kNf4;
using test::normal;
using test::orthonormal_columns;
using test::relative;

struct Case {
  const char* name;
  std::int64_t in, out;
  quant::QuantFormat weights, basis;
};

class LoqtLinears : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr std::int64_t kRank = 8;
  static constexpr double kScale = 0.4;
  // Below and above in * out / (in + out): the factor applied apart, and folded into the weight.
  static constexpr std::int64_t kFewRows = 5;
  static constexpr std::int64_t kManyRows = 200;

  std::int64_t in() const { return GetParam().in; }
  std::int64_t out() const { return GetParam().out; }
  std::int64_t dim() const { return std::min(in(), out()); }
  bool quantized() const { return GetParam().weights.codec != quant::CodecKind::none; }

  std::unique_ptr<LoqtLinear> make(int iterations = 5, at::ScalarType factor_dtype = at::kFloat) const {
    const LoqtLinearOptions options{.rank = kRank,
                                    .scale = kScale,
                                    .compensation_iterations = iterations,
                                    .weights = GetParam().weights,
                                    .basis = GetParam().basis,
                                    .factor_dtype = factor_dtype};
    return std::make_unique<LoqtLinear>(LinearSpec{"layer", LinearKind::mlp, in(), out()},
                                        normal({out(), in()}, 1, 0.2), options);
  }
  // With a basis, and a factor as training would leave it.
  std::unique_ptr<LoqtLinear> trained() const {
    auto linear = make();
    linear->commit(linear->prepare_merge(basis(2)));
    linear->factor().value.add_(normal(linear->factor().value.sizes(), 3, 0.3));
    return linear;
  }
  Projector basis(std::uint64_t seed) const {
    return Projector(default_side(in(), out()), orthonormal_columns(dim(), kRank, seed), GetParam().basis);
  }
  // W + s lift(B) in fp64 from the parts, by the definition of the sides.
  static at::Tensor dense(LoqtLinear& linear) {
    at::Tensor weight = linear.weight().dequantize(at::kFloat).to(at::kDouble);
    if (!linear.has_projector()) return weight;
    const at::Tensor p = linear.projector().basis(at::kFloat).to(at::kDouble);
    const at::Tensor b = linear.factor().value.to(at::kDouble);
    return weight + kScale * (linear.side() == Side::input ? at::mm(p, b).t() : at::mm(b, p.t()).t());
  }
  at::Tensor rows(std::int64_t count, std::int64_t width, std::uint64_t seed) const {
    return normal({count, width}, seed);
  }
};

TEST_P(LoqtLinears, ForwardMultipliesByTheEffectiveWeightOnBothRoutes) {
  const auto linear = trained();
  ASSERT_LT(kFewRows * (in() + out()), in() * out());
  ASSERT_GE(kManyRows * (in() + out()), in() * out());
  EXPECT_LT(relative(linear->effective_weight(), dense(*linear)), 1e-6);
  for (const std::int64_t count : {kFewRows, kManyRows}) {
    const at::Tensor x = rows(count, in(), 4);
    const at::Tensor expected = at::mm(x.to(at::kDouble), dense(*linear).t());
    EXPECT_LT(relative(linear->forward(x), expected), 1e-6) << count;
    const at::Tensor low = linear->forward(x.to(at::kBFloat16));
    EXPECT_EQ(low.scalar_type(), at::kBFloat16);
    EXPECT_LT(relative(low, expected), 0.01) << count;
  }
}

TEST_P(LoqtLinears, WithoutABasisItIsTheStoredWeight) {
  const auto linear = make();
  EXPECT_FALSE(linear->has_projector());
  const at::Tensor stored =
      quant::QuantizedTensor::quantize(normal({out(), in()}, 1, 0.2), GetParam().weights)
          .dequantize(at::kFloat);
  EXPECT_TRUE(at::equal(linear->effective_weight(), stored));
  const at::Tensor x = rows(3, in(), 4);
  EXPECT_LT(relative(linear->forward(x), at::mm(x, stored.t())), 1e-6);
}

TEST_P(LoqtLinears, GradientsEqualAutograd) {
  const auto linear = trained();
  linear->factor().grad = at::zeros(linear->factor().value.sizes());
  for (const std::int64_t count : {kFewRows, kManyRows}) {
    const at::Tensor x = rows(count, in(), 4);
    const at::Tensor dy = rows(count, out(), 5);
    at::Tensor leaf_x = x.to(at::kDouble).set_requires_grad(true);
    at::Tensor leaf_b = linear->factor().value.to(at::kDouble).set_requires_grad(true);
    const at::Tensor p = linear->projector().basis(at::kFloat).to(at::kDouble);
    const at::Tensor w = linear->weight().dequantize(at::kFloat).to(at::kDouble);
    const at::Tensor low = linear->side() == Side::input ? at::mm(at::mm(leaf_x, p), leaf_b)
                                                         : at::mm(at::mm(leaf_x, leaf_b), p.t());
    (at::mm(leaf_x, w.t()) + kScale * low).backward(dy.to(at::kDouble));

    linear->factor().grad.zero_();
    at::Tensor dx;
    linear->backward(x, dy, &dx, BackwardMode::update);
    EXPECT_LT(relative(dx, leaf_x.grad()), 1e-5) << count;
    EXPECT_LT(relative(linear->factor().grad, leaf_b.grad()), 1e-5) << count;

    at::Tensor sum = dx.clone();  // both add to what is there
    linear->backward(x, dy, &sum, BackwardMode::update);
    EXPECT_LT(relative(sum, 2.0 * leaf_x.grad()), 1e-5);
    EXPECT_LT(relative(linear->factor().grad, 2.0 * leaf_b.grad()), 1e-5);

    linear->factor().grad.zero_();
    at::Tensor low_dx;
    linear->backward(x.to(at::kBFloat16), dy.to(at::kBFloat16), &low_dx, BackwardMode::update);
    EXPECT_LT(relative(low_dx, leaf_x.grad()), 0.02);
    EXPECT_LT(relative(linear->factor().grad, leaf_b.grad()), 0.02);
  }
}

// grad B = s P^T G^W (input: s (G P)^T), and does not depend on B.
TEST_P(LoqtLinears, FactorGradientIsTheScaledProjectionOfTheWeightGradientWhateverTheFactor) {
  const auto linear = trained();
  const at::Tensor x = rows(11, in(), 4);
  const at::Tensor dy = rows(11, out(), 5);
  const at::Tensor weight_gradient = at::mm(dy.t(), x);
  const at::Tensor p = linear->projector().basis(at::kFloat);
  const at::Tensor expected = kScale * (linear->side() == Side::input ? at::mm(weight_gradient, p).t()
                                                                      : at::mm(weight_gradient.t(), p));
  linear->factor().grad = at::zeros(linear->factor().value.sizes());
  linear->backward(x, dy, nullptr, BackwardMode::update);
  EXPECT_LT(relative(linear->factor().grad, expected), 1e-5);
  const at::Tensor first = linear->factor().grad.clone();
  linear->factor().grad.zero_();
  linear->factor().value.normal_();
  linear->backward(x, dy, nullptr, BackwardMode::update);
  EXPECT_TRUE(at::equal(linear->factor().grad, first));
}

TEST_P(LoqtLinears, WithoutABasisTheFactorGetsNoGradientAndDxIsThatOfTheWeight) {
  const auto linear = make();
  linear->factor().grad = at::zeros(linear->factor().value.sizes());
  const at::Tensor dy = rows(7, out(), 5);
  at::Tensor dx;
  linear->backward(rows(7, in(), 4), dy, &dx, BackwardMode::update);
  EXPECT_EQ(linear->factor().grad.abs().max().item<float>(), 0.0F);
  EXPECT_LT(relative(dx, at::mm(dy, linear->effective_weight())), 1e-6);
}

// With svd the sketch is the gradient itself. A first layer needs no dx; the probe must see it all the same.
TEST_P(LoqtLinears, ProbeSumsTheDenseGradientOverMicroBatchesWithAndWithoutDx) {
  const auto linear = trained();
  linear->factor().grad = at::zeros(linear->factor().value.sizes());
  BasisSketch sketch(in(), out(), linear->side(), kRank, {.solver = BasisSolver::svd}, {}, 1, at::kCPU);
  sketch.begin_pass(0);
  linear->begin_probe(sketch);
  EXPECT_TRUE(linear->probing());
  at::Tensor expected = at::zeros({out(), in()}, at::kDouble);
  at::Tensor dx;
  for (std::uint64_t i = 0; i < 3; ++i) {
    const at::Tensor x = rows(9, in(), 40 + i);
    const at::Tensor dy = rows(9, out(), 50 + i);
    linear->backward(x, dy, i == 1 ? &dx : nullptr, BackwardMode::probe);
    expected += at::mm(dy.t(), x);
    if (dx.defined()) {
      EXPECT_LT(relative(dx, at::mm(dy, linear->effective_weight())), 1e-5);  // at W + s lift(B)
      dx.reset();
    }
  }
  EXPECT_LT(relative(sketch.accumulator(), expected), 1e-6);
  EXPECT_EQ(linear->factor().grad.abs().max().item<float>(), 0.0F);
  linear->end_probe();
  EXPECT_FALSE(linear->probing());
  const at::Tensor before = sketch.accumulator().clone();
  linear->backward(rows(9, in(), 1), rows(9, out(), 2), nullptr, BackwardMode::probe);
  EXPECT_TRUE(at::equal(sketch.accumulator(), before));
}

TEST_P(LoqtLinears, MergeKeepsTheEffectiveWeightUpToTheReportedError) {
  const auto linear = trained();
  const at::Tensor before = dense(*linear);
  LoqtLinear::Merge merge = linear->prepare_merge(basis(7));
  const double error = merge.result.weight_error;
  linear->commit(std::move(merge));
  EXPECT_NEAR(relative(dense(*linear), before), error, 1e-5);
  // The new basis is the one in use, and the old factor is gone.
  EXPECT_TRUE(at::equal(linear->projector().basis(at::kFloat), basis(7).basis(at::kFloat)));
  if (!quantized()) {
    EXPECT_LT(relative(linear->weight().dequantize(at::kFloat), before), 1e-6);
    EXPECT_EQ(linear->factor().value.abs().max().item<float>(), 0.0F);
    EXPECT_EQ(error, 0.0);
    return;
  }
  // No worse than plain quantization of the merged weight (exactly: the first round alone beats it).
  const at::Tensor merged = before.to(at::kFloat);
  EXPECT_LT(
      error,
      relative(quant::QuantizedTensor::quantize(merged, GetParam().weights).dequantize(at::kFloat), merged));
}

TEST_P(LoqtLinears, MergingAFactorOfZeroChangesNothing) {
  auto linear = make();
  linear->commit(linear->prepare_merge(basis(2)));
  linear->factor().value.zero_();
  std::vector<at::Tensor> before;
  for (const auto& part : linear->weight().storage()) before.push_back(part.clone());
  const at::Tensor weight = linear->effective_weight().clone();
  linear->commit(linear->prepare_merge(basis(7)));
  if (!GetParam().weights.double_quant || !quantized()) {  // bit for bit where scales are exact
    for (std::size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(at::equal(linear->weight().storage()[i], before[i])) << i;
    EXPECT_EQ(linear->factor().value.abs().max().item<float>(), 0.0F);
    EXPECT_TRUE(at::equal(linear->effective_weight(), weight));
    return;
  }
  EXPECT_TRUE(at::equal(linear->weight().storage()[0], before[0]));  // codes; the 8-bit scales may drift
  EXPECT_LT(relative(linear->effective_weight(), weight), 1e-3);
}

TEST_P(LoqtLinears, WithoutCompensationAMergeLeavesAZeroFactor) {
  auto linear = make(/*iterations=*/0);
  linear->commit(linear->prepare_merge(basis(2)));
  EXPECT_EQ(linear->factor().value.abs().max().item<float>(), 0.0F);
  linear->factor().value.normal_();
  linear->commit(linear->prepare_merge(basis(7)));
  EXPECT_EQ(linear->factor().value.abs().max().item<float>(), 0.0F);
}

TEST_P(LoqtLinears, ABf16FactorIsStoredInBf16AndMerges) {
  auto linear = make(5, at::kBFloat16);
  linear->commit(linear->prepare_merge(basis(2)));
  linear->factor().value.add_(normal(linear->factor().value.sizes(), 3, 0.3).to(at::kBFloat16));
  EXPECT_EQ(linear->factor().value.scalar_type(), at::kBFloat16);
  const at::Tensor before = dense(*linear);
  LoqtLinear::Merge merge = linear->prepare_merge(basis(7));
  const double error = merge.result.weight_error;
  linear->commit(std::move(merge));
  EXPECT_EQ(linear->factor().value.scalar_type(), at::kBFloat16);
  EXPECT_NEAR(relative(dense(*linear), before), error, 0.005);
}

// Bit for bit, so that a resumed run equals an unbroken one.
TEST_P(LoqtLinears, LoadRestoresWhatSaveWrote) {
  for (const bool with_basis : {false, true}) {
    const auto saved = with_basis ? trained() : make();
    kumiko::test::MemoryState state;
    saved->save(state);
    auto loaded = make();
    if (!with_basis) loaded->commit(loaded->prepare_merge(basis(9)));  // a basis it must lose
    loaded->load(state);
    EXPECT_EQ(loaded->has_projector(), with_basis);
    const auto expected = saved->state_tensors();
    const auto got = loaded->state_tensors();
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(at::equal(got[i], expected[i])) << i;
    EXPECT_TRUE(at::equal(loaded->effective_weight(), saved->effective_weight()));
  }
}

TEST_P(LoqtLinears, LoadRefusesStateOfAnotherShapeOrFormat) {
  const auto saved = trained();
  kumiko::test::MemoryState state;
  saved->save(state);
  LoqtLinearOptions options = saved->options();
  const LinearSpec other{"layer", LinearKind::mlp, in(), out() + 1};
  EXPECT_THROW(LoqtLinear(other, normal({out() + 1, in()}, 1), options).load(state), CheckpointError);
  options.rank = kRank / 2;
  EXPECT_THROW(LoqtLinear(saved->spec(), normal({out(), in()}, 1), options).load(state), CheckpointError);
  options = saved->options();
  options.weights.codec = quantized() ? quant::CodecKind::none : quant::CodecKind::nf4;
  EXPECT_THROW(LoqtLinear(saved->spec(), normal({out(), in()}, 1), options).load(state), CheckpointError);
  state.tensors.erase("layer.factor");
  EXPECT_THAT(test::message_of<CheckpointError>([&] { make()->load(state); }),
              ::testing::HasSubstr("layer.factor"));
}

TEST_P(LoqtLinears, AReceiverWithTheSendersTensorsIsTheSameLayer) {
  const auto sender = trained();
  auto receiver = make();
  receiver->prepare_to_receive(sender->rank());
  auto to = receiver->state_tensors();
  const auto from = sender->state_tensors();
  ASSERT_EQ(to.size(), from.size());
  for (std::size_t i = 0; i < to.size(); ++i) {
    ASSERT_TRUE(to[i].is_contiguous());
    to[i].copy_(from[i]);
  }
  EXPECT_TRUE(at::equal(receiver->effective_weight(), sender->effective_weight()));
}

TEST_P(LoqtLinears, CountsItsFrozenBytes) {
  const auto linear = trained();
  std::int64_t bytes = 0;
  for (const auto& tensor : linear->state_tensors()) bytes += static_cast<std::int64_t>(tensor.nbytes());
  EXPECT_EQ(linear->frozen_nbytes(), bytes - static_cast<std::int64_t>(linear->factor().value.nbytes()));
}

// With plain gradient steps and a fixed basis: W_T = W_0 - lr s^2 (sum of G) P P^T, or P P^T (sum of G).
TEST(LoqtLinear, GradientDescentOnTheFactorMovesTheWeightByTheProjectedGradients) {
  for (const auto& [in, out] : {std::pair{20, 33}, std::pair{33, 20}}) {
    const LoqtLinearOptions options{.rank = 6, .scale = 0.4, .weights = kDense, .basis = kDense};
    LoqtLinear linear({"layer", LinearKind::mlp, in, out}, normal({out, in}, 1), options);
    const at::Tensor p = orthonormal_columns(20, 6, 2);
    linear.commit(linear.prepare_merge(Projector(linear.side(), p, kDense)));
    const at::Tensor start = linear.effective_weight().clone();
    linear.factor().grad = at::zeros(linear.factor().value.sizes());
    at::Tensor sum = at::zeros({out, in});
    for (std::uint64_t step = 0; step < 5; ++step) {
      const at::Tensor x = normal({9, in}, 100 + step);
      const at::Tensor dy = normal({9, out}, 200 + step);
      sum += at::mm(dy.t(), x);
      linear.factor().grad.zero_();
      linear.backward(x, dy, nullptr, BackwardMode::update);
      linear.factor().value.sub_(linear.factor().grad, 0.1);
    }
    const at::Tensor kept =
        linear.side() == Side::input ? at::mm(at::mm(sum, p), p.t()) : at::mm(p, at::mm(p.t(), sum));
    EXPECT_LT(relative(linear.effective_weight() - start, -0.1 * 0.4 * 0.4 * kept), 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, LoqtLinears,
                         ::testing::Values(Case{"input_nf4", 48, 71, kNf4, kNf4},
                                           Case{"output_nf4", 71, 48, kNf4, kNf4},
                                           Case{"input_nested", 48, 71, kNestedNf4, kNestedNf4},
                                           Case{"output_nested", 71, 48, kNestedNf4, kNestedNf4},
                                           Case{"square_nested", 56, 56, kNestedNf4, kNestedNf4},
                                           Case{"input_dense", 48, 71, kDense, kDense},
                                           Case{"output_dense", 71, 48, kDense, kDense},
                                           Case{"dense_basis", 48, 71, kNf4, kDense}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kumiko::lowrank
