// SPDX-License-Identifier: Apache-2.0
#include "lowrank/projector.hpp"

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

TEST(Side, IsTheSmallerDimensionInputWhenSquare) {
  EXPECT_EQ(default_side(4, 9), Side::input);
  EXPECT_EQ(default_side(9, 4), Side::output);
  EXPECT_EQ(default_side(4, 4), Side::input);
}

// W [out 2, in 3], one column.
TEST(Projector, ProjectsAndLiftsByHandCheckedNumbers) {
  const at::Tensor full = at::tensor({1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F}).view({2, 3});
  const Projector input(Side::input, at::tensor({1.0F, 0.0F, 2.0F}).view({3, 1}), kDense);
  EXPECT_TRUE(at::equal(input.project(full), at::tensor({7.0F, 16.0F}).view({1, 2})));  // (G P)^T
  EXPECT_TRUE(at::equal(input.lift(at::tensor({1.0F, 10.0F}).view({1, 2})),             // B^T P^T
                        at::tensor({1.0F, 0.0F, 2.0F, 10.0F, 0.0F, 20.0F}).view({2, 3})));
  const Projector output(Side::output, at::tensor({1.0F, 10.0F}).view({2, 1}), kDense);
  EXPECT_TRUE(at::equal(output.project(full), at::tensor({41.0F, 52.0F, 63.0F}).view({3, 1})));  // G^T P
  EXPECT_TRUE(at::equal(output.lift(at::tensor({1.0F, 2.0F, 3.0F}).view({3, 1})),                // P B^T
                        at::tensor({1.0F, 2.0F, 3.0F, 10.0F, 20.0F, 30.0F}).view({2, 3})));
}

struct Case {
  const char* name;
  Side side;
  std::int64_t in, out, rank;
  std::int64_t dim() const { return side == Side::input ? in : out; }
};

class Projectors : public ::testing::TestWithParam<Case> {};

TEST_P(Projectors, LiftIntoAddsTheScaledLift) {
  const Case c = GetParam();
  const Projector projector(c.side, normal({c.dim(), c.rank}, 1), kNf4);
  const at::Tensor factor = normal(projector.factor_sizes(c.in, c.out), 2);
  const at::Tensor weight = normal({c.out, c.in}, 3);
  at::Tensor moved = weight.clone();
  projector.lift_into(moved, factor, -0.4);
  EXPECT_LT(relative(moved, weight - 0.4 * projector.lift(factor)), 1e-6);
  at::Tensor low = weight.to(at::kBFloat16);
  projector.lift_into(low, factor, -0.4);
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  EXPECT_LT(relative(low, moved), 0.01);
}

// <project(G), B> = <G, lift(B)> for all B: each is the other's adjoint.
TEST_P(Projectors, ProjectIsTheAdjointOfLift) {
  const Case c = GetParam();
  const Projector projector(c.side, normal({c.dim(), c.rank}, 1), kNestedNf4);
  const at::Tensor gradient = normal({c.out, c.in}, 2);
  const at::Tensor factor = normal(projector.factor_sizes(c.in, c.out), 3);
  const double a = (projector.project(gradient) * factor).sum().item<double>();
  const double b = (gradient * projector.lift(factor)).sum().item<double>();
  EXPECT_NEAR(a, b, 1e-4 * at::norm(gradient).item<double>() * at::norm(factor).item<double>());
}

TEST_P(Projectors, FitFactorEqualsThePseudoInverseOfTheStoredBasis) {
  const Case c = GetParam();
  for (const auto& format : {kDense, kNf4}) {
    const Projector projector(c.side, orthonormal_columns(c.dim(), c.rank, 1), format);
    const at::Tensor full = normal({c.out, c.in}, 2);
    const at::Tensor inverse = at::linalg_pinv(projector.basis(at::kFloat).to(at::kDouble));  // [r, dim]
    const at::Tensor wide = full.to(at::kDouble);
    const at::Tensor expected =
        c.side == Side::input ? at::mm(inverse, wide.t()) : at::mm(wide.t(), inverse.t());
    EXPECT_LT(relative(projector.fit_factor(full), expected), 1e-5);
    // At the minimum the residual has no part in the basis.
    EXPECT_LT(at::norm(projector.project(full - projector.lift(projector.fit_factor(full)))).item<double>(),
              1e-4);
  }
}

// NF4(P) is not orthonormal, so its transpose is no least-squares fit.
TEST_P(Projectors, FitFactorIsNotTheTransposeForAQuantizedBasis) {
  const Case c = GetParam();
  const Projector projector(c.side, orthonormal_columns(c.dim(), c.rank, 1), kNf4);
  const at::Tensor full = normal({c.out, c.in}, 2);
  EXPECT_GT(relative(projector.project(full), projector.fit_factor(full)), 0.01);
}

TEST_P(Projectors, FitFactorSurvivesABasisWithEqualColumns) {
  const Case c = GetParam();
  at::Tensor basis = orthonormal_columns(c.dim(), c.rank, 1);
  basis.select(1, c.rank - 1).copy_(basis.select(1, 0));
  const Projector projector(c.side, basis, kDense);
  const at::Tensor full = projector.lift(normal(projector.factor_sizes(c.in, c.out), 2));
  EXPECT_LT(relative(projector.lift(projector.fit_factor(full)), full), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Sides, Projectors,
                         ::testing::Values(Case{"input", Side::input, 48, 96, 12},
                                           Case{"output", Side::output, 97, 43, 12},
                                           Case{"full_rank", Side::input, 20, 20, 20}),
                         [](const auto& info) { return info.param.name; });

// Reference statistics of NF4 on an orthonormal 512 x 128 basis: relative error .0922, |P_q^T P_q - I|_F /
// sqrt(r) = .066.
TEST(Projector, QuantizedBasisHasTheKnownDistortion) {
  const at::Tensor exact = orthonormal_columns(512, 128, 1);
  const at::Tensor stored = Projector(Side::input, exact, kNf4).basis(at::kFloat);
  EXPECT_NEAR(relative(stored, exact), 0.0922, 0.001);
  const double skew = (at::norm(at::mm(stored.t(), stored) - at::eye(128)) / std::sqrt(128.0)).item<double>();
  EXPECT_NEAR(skew, 0.066, 0.003);
}

}  // namespace
}  // namespace kumiko::lowrank
