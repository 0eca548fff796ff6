// SPDX-License-Identifier: Apache-2.0
#include "lowrank/compensation.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/lowrank/lowrank_test_support.hpp"

namespace kumiko::lowrank {
namespace {

using test::kDense;
using test::kNestedNf4;
using test::kNf4;
using test::normal;
using test::orthonormal_columns;
using test::relative;

constexpr double kScale = 0.4;

struct Reference {
  std::int64_t rank;
  double first, fifth;  // relative errors after one round (theory e0 sqrt(1 - r/m)) and after five
};

class CompensationNumbers : public ::testing::TestWithParam<Reference> {};

// W 1376 x 512 of N(0, .02^2), NF4 of block 64 for W and P.
TEST_P(CompensationNumbers, EqualTheReferenceStatistics) {
  const auto [rank, first, fifth] = GetParam();
  const at::Tensor weight = normal({1376, 512}, 11, 0.02);
  const Projector projector(Side::input, orthonormal_columns(512, rank, 12), kNf4);
  const double plain = compensate(weight, projector, kScale, 0, kNf4).relative_error;
  const double once = compensate(weight, projector, kScale, 1, kNf4).relative_error;
  EXPECT_NEAR(plain, 0.0921, 3e-4);
  EXPECT_NEAR(once, plain * std::sqrt(1.0 - static_cast<double>(rank) / 512.0), 1e-4);
  EXPECT_NEAR(once, first, 3e-4);
  EXPECT_NEAR(compensate(weight, projector, kScale, 5, kNf4).relative_error, fifth, 5e-4);
}

INSTANTIATE_TEST_SUITE_P(Ranks, CompensationNumbers,
                         ::testing::Values(Reference{32, 0.08917, 0.0817}, Reference{128, 0.07976, 0.0665},
                                           Reference{256, 0.06512, 0.0556}));

struct Case {
  const char* name;
  Side side;
  std::int64_t in, out;
};

class Compensations : public ::testing::TestWithParam<Case> {
 protected:
  at::Tensor weight() const { return normal({GetParam().out, GetParam().in}, 3, 0.05); }
  Projector projector(const quant::QuantFormat& format = kNf4) const {
    const std::int64_t dim = GetParam().side == Side::input ? GetParam().in : GetParam().out;
    return Projector(GetParam().side, orthonormal_columns(dim, 16, 4), format);
  }
};

TEST_P(Compensations, ErrorNeverGrowsWithMoreRounds) {
  double last = compensate(weight(), projector(), kScale, 0, kNestedNf4).relative_error;
  const double plain = last;
  for (int rounds = 1; rounds <= 12; ++rounds) {
    const double error = compensate(weight(), projector(), kScale, rounds, kNestedNf4).relative_error;
    EXPECT_LE(error, last) << rounds;
    last = error;
  }
  EXPECT_LT(last, 0.8 * plain);
}

TEST_P(Compensations, ReportsTheErrorOfWhatItReturns) {
  for (const int rounds : {0, 1, 4}) {
    const Compensated result = compensate(weight(), projector(), kScale, rounds, kNestedNf4);
    const at::Tensor stored = result.weight.dequantize(at::kFloat) + kScale * projector().lift(result.factor);
    EXPECT_NEAR(relative(stored, weight()), result.relative_error, 1e-5) << rounds;
  }
}

TEST_P(Compensations, NoRoundsGivePlainQuantizationAndAZeroFactor) {
  const Compensated result = compensate(weight(), projector(), kScale, 0, kNf4);
  EXPECT_EQ(result.factor.abs().max().item<float>(), 0.0F);
  EXPECT_EQ(result.factor.sizes(), at::IntArrayRef(projector().factor_sizes(GetParam().in, GetParam().out)));
  const auto plain = quant::QuantizedTensor::quantize(weight(), kNf4);
  for (std::size_t i = 0; i < plain.storage().size(); ++i)
    EXPECT_TRUE(at::equal(result.weight.storage()[i], plain.storage()[i]));
}

// First round against the pseudo-inverse in fp64: B = P^+ (W - deq(q(W))) / s.
TEST_P(Compensations, FirstRoundIsTheLeastSquaresFactorOfTheResidual) {
  const Compensated result = compensate(weight(), projector(), kScale, 1, kNf4);
  const at::Tensor residual =
      (weight() - quant::QuantizedTensor::quantize(weight(), kNf4).dequantize(at::kFloat)).to(at::kDouble);
  const at::Tensor inverse = at::linalg_pinv(projector().basis(at::kFloat).to(at::kDouble));
  const at::Tensor b =
      GetParam().side == Side::input ? at::mm(inverse, residual.t()) : at::mm(residual.t(), inverse.t());
  EXPECT_LT(relative(result.factor, b / kScale), 1e-4);
}

TEST_P(Compensations, ScaleOnlyRescalesTheFactor) {
  const Compensated a = compensate(weight(), projector(), 0.5, 3, kNf4);
  const Compensated b = compensate(weight(), projector(), 2.0, 3, kNf4);
  EXPECT_LT(relative(a.factor, b.factor * 4.0), 1e-5);
  EXPECT_NEAR(a.relative_error, b.relative_error, 1e-6);
}

TEST_P(Compensations, AWeightOnTheGridStaysAsItIs) {
  const auto on_grid = quant::QuantizedTensor::quantize(weight(), kNf4);
  const Compensated result = compensate(on_grid.dequantize(at::kFloat), projector(), kScale, 5, kNf4);
  EXPECT_EQ(result.relative_error, 0.0);
  EXPECT_EQ(result.factor.abs().max().item<float>(), 0.0F);
  for (std::size_t i = 0; i < on_grid.storage().size(); ++i)
    EXPECT_TRUE(at::equal(result.weight.storage()[i], on_grid.storage()[i]));
}

TEST_P(Compensations, AZeroWeightHasNoError) {
  const Compensated result =
      compensate(at::zeros({GetParam().out, GetParam().in}), projector(), kScale, 3, kNestedNf4);
  EXPECT_EQ(result.relative_error, 0.0);
  EXPECT_TRUE(at::isfinite(result.factor).all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(Sides, Compensations,
                         ::testing::Values(Case{"input", Side::input, 64, 96},
                                           Case{"output", Side::output, 107, 48}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kumiko::lowrank
