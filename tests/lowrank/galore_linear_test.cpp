// SPDX-License-Identifier: Apache-2.0
#include "lowrank/galore_linear.hpp"

#include <gtest/gtest.h>

#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko::lowrank {
namespace {

using test::kDense;
using test::normal;
using test::orthonormal_columns;
using test::relative;

constexpr quant::QuantFormat kInt8{quant::CodecKind::int8, 256, false};
constexpr quant::QuantFormat kInt4{quant::CodecKind::int4, 256, false};
constexpr std::int64_t kRank = 8;
constexpr double kScale = 0.25;

struct Shape {
  const char* name;
  std::int64_t in, out;
};

class GaloreLinears : public ::testing::TestWithParam<Shape> {
 protected:
  std::int64_t in() const { return GetParam().in; }
  std::int64_t out() const { return GetParam().out; }
  at::Tensor initial() const { return normal({out(), in()}, 1, 0.2); }
  // The published code takes right singular vectors where rows >= columns (std of galore-torch's projector),
  // else left.
  bool right() const { return out() >= in(); }
  at::Tensor basis() const { return orthonormal_columns(right() ? in() : out(), kRank, 2); }

  std::unique_ptr<GaloreLinear> make(const StorageOptions& storage = {kDense, kDense},
                                     at::ScalarType dtype = at::kFloat) const {
    auto linear = std::make_unique<GaloreLinear>(
        LinearSpec{"layer", LinearKind::mlp, in(), out()}, initial(),
        GaloreLinearOptions{
            .rank = kRank, .scale = kScale, .storage = storage, .seed = 7, .dense_dtype = dtype});
    linear->install(Projector(linear->side(), basis(), storage.basis));
    return linear;
  }
  // R of a full gradient, and what it stands for, in fp64.
  at::Tensor project(const at::Tensor& gradient, const at::Tensor& p) const {
    return right() ? at::mm(gradient, p).t() : at::mm(p.t(), gradient).t();
  }
  at::Tensor lift(const at::Tensor& r, const at::Tensor& p) const {
    return right() ? at::mm(r.t(), p.t()) : at::mm(p, r.t());
  }
  static at::Tensor fp64(const at::Tensor& t) { return t.to(at::kDouble); }
  static void apply(GaloreLinear& linear, at::Tensor update, double decay) {
    linear.parameters().front()->target->apply_update(update, decay);
  }
};

TEST_P(GaloreLinears, HoldGradientsOfTheProjectedSizesOnly) {
  const auto linear = make();
  Parameter& parameter = *linear->parameters().at(0);
  EXPECT_EQ(parameter.name, "layer.weight");
  EXPECT_EQ(parameter.role, ParamRole::matrix);
  EXPECT_FALSE(parameter.value.defined());
  EXPECT_EQ(parameter.grad_sizes(), project(fp64(initial()), fp64(basis())).sizes());
}

TEST_P(GaloreLinears, MultiplyAndDifferentiateAsTheWeightDoes) {
  const auto linear = make();
  Parameter& parameter = *linear->parameters().at(0);
  parameter.grad = at::zeros(parameter.grad_sizes());
  const at::Tensor w = fp64(initial());
  at::Tensor expected = at::zeros(parameter.grad_sizes(), at::kDouble);
  for (const std::uint64_t seed : {3U, 13U}) {  // two micro-batches
    const at::Tensor x = normal({9, in()}, seed);
    const at::Tensor dy = normal({9, out()}, seed + 1);
    EXPECT_LT(relative(linear->forward(x), at::mm(fp64(x), w.t())), 1e-6);
    at::Tensor dx;
    linear->backward(x, dy, &dx, BackwardMode::update);
    EXPECT_LT(relative(dx, at::mm(fp64(dy), w)), 1e-6);
    expected += project(at::mm(fp64(dy).t(), fp64(x)), fp64(basis()));
  }
  EXPECT_LT(relative(parameter.grad, expected), 1e-6);

  const at::Tensor x = normal({9, in()}, 5).to(at::kBFloat16);
  const at::Tensor dy = normal({9, out()}, 6).to(at::kBFloat16);
  parameter.grad.zero_();
  linear->backward(x, dy, nullptr, BackwardMode::update);
  EXPECT_LT(relative(parameter.grad, project(at::mm(fp64(dy).t(), fp64(x)), fp64(basis()))), 2e-2);
}

TEST_P(GaloreLinears, MoveByTheLiftedUpdateAfterTheDecay) {
  const auto linear = make();
  const at::Tensor update = normal(linear->parameters().at(0)->grad_sizes(), 4, 0.01);
  apply(*linear, update.clone(), 0.125);
  const at::Tensor expected = 0.875 * fp64(initial()) + kScale * lift(fp64(update), fp64(basis()));
  EXPECT_LT(relative(linear->effective_weight(), expected), 1e-6);
}

TEST_P(GaloreLinears, RoundBf16WeightsOnceFromFp32) {
  const auto linear = make({kDense, kDense}, at::kBFloat16);
  const at::Tensor before = linear->weight().dequantize(at::kFloat);
  const at::Tensor update = normal(linear->parameters().at(0)->grad_sizes(), 4, 0.01);
  apply(*linear, update.clone(), 0.0);
  const at::Tensor exact = before + kScale * lift(update, basis());
  EXPECT_EQ(linear->weight().storage().front().scalar_type(), at::kBFloat16);
  // Half a unit in the last place, at most 2^-8 of the number, and fp32's own rounding.
  const at::Tensor error = (linear->effective_weight() - exact).abs();
  EXPECT_TRUE(at::le(error, exact.abs() * 0x1.01p-8 + 1e-7).all().item<bool>());
  EXPECT_FALSE(at::equal(linear->effective_weight(), before));
}

// Updates far below a step of INT8: rounded to the nearest they are all lost, rounded stochastically their
// sum is kept.
TEST_P(GaloreLinears, KeepSmallUpdatesOfInt8WeightsOnAverage) {
  constexpr int kSteps = 64;
  const StorageOptions nearest{kInt8, kInt4, Rounding::nearest};
  const StorageOptions stochastic{kInt8, kInt4, Rounding::stochastic};
  const auto stuck = make(nearest);
  const auto moving = make(stochastic);
  const at::Tensor start = stuck->effective_weight();
  ASSERT_TRUE(at::equal(moving->effective_weight(), start));
  const at::Tensor p = stuck->projector().basis(at::kFloat);
  const at::Tensor update = normal(stuck->parameters().at(0)->grad_sizes(), 4, 2e-4);
  for (int i = 0; i < kSteps; ++i) {
    apply(*stuck, update.clone(), 0.0);
    apply(*moving, update.clone(), 0.0);
  }
  const at::Tensor wanted = fp64(kSteps * kScale * lift(update, p));
  const auto share = [&](const GaloreLinear& linear) {
    const at::Tensor moved = fp64(linear.effective_weight() - start);
    return ((moved * wanted).sum() / wanted.square().sum()).item<double>();
  };
  EXPECT_NEAR(share(*stuck), 0.0, 0.2);  // the largest of a block moves, and its scale with it
  EXPECT_NEAR(share(*moving), 1.0, 0.15);
}

TEST_P(GaloreLinears, GoOnFromSavedStateWithTheSameRandomNumbers) {
  const StorageOptions storage{kInt8, kInt4, Rounding::stochastic};
  const auto saved = make(storage);
  const at::Tensor update = normal(saved->parameters().at(0)->grad_sizes(), 4, 0.01);
  for (int i = 0; i < 3; ++i) apply(*saved, update.clone(), 0.0);
  kumiko::test::MemoryState state;
  saved->save(state);
  GaloreLinear loaded(saved->spec(), normal({out(), in()}, 9),
                      {.rank = kRank, .scale = kScale, .storage = storage, .seed = 7});
  loaded.load(state);
  EXPECT_TRUE(at::equal(loaded.effective_weight(), saved->effective_weight()));
  state.integers.at("layer.updates") = 0;  // other random numbers from here on
  GaloreLinear early(saved->spec(), normal({out(), in()}, 9),
                     {.rank = kRank, .scale = kScale, .storage = storage, .seed = 7});
  early.load(state);
  for (GaloreLinear* linear : {saved.get(), &loaded, &early}) apply(*linear, update.clone(), 0.0);
  EXPECT_TRUE(at::equal(loaded.effective_weight(), saved->effective_weight()));
  EXPECT_FALSE(at::equal(early.effective_weight(), saved->effective_weight()));

  EXPECT_THROW(
      GaloreLinear(saved->spec(), initial(), {.rank = kRank, .storage = {kDense, kInt4}}).load(state),
      CheckpointError);
}

TEST_P(GaloreLinears, DoNotMoveBeforeThereIsABasis) {
  GaloreLinear linear({"layer", LinearKind::mlp, in(), out()}, initial(),
                      {.rank = kRank, .storage = {kDense, kDense}});
  Parameter& parameter = *linear.parameters().at(0);
  parameter.grad = at::zeros(parameter.grad_sizes());
  linear.backward(normal({9, in()}, 5), normal({9, out()}, 6), nullptr, BackwardMode::update);
  EXPECT_EQ(parameter.grad.abs().max().item<float>(), 0.0F);
  apply(linear, at::ones(parameter.grad_sizes()), 0.5);
  EXPECT_TRUE(at::equal(linear.effective_weight(), initial()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, GaloreLinears,
                         ::testing::Values(Shape{"tall", 24, 43}, Shape{"wide", 43, 24},
                                           Shape{"square", 32, 32}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kumiko::lowrank
