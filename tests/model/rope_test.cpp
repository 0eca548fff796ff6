// SPDX-License-Identifier: Apache-2.0
#include "framework/model/rope.hpp"

#include <cmath>
#include <complex>

#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;
using test::relative;

constexpr double kBase = 10000.0;

TEST(Rope, EqualsHandCheckedNumbers) {
  // head_dim 2: one angle, 1 radian a position. (1, 0) turns to (cos t, sin t).
  const RopeTable table = make_rope_table(3, 2, kBase, at::kCPU);
  const at::Tensor x = at::tensor({1.0F, 0.0F}).view({1, 1, 1, 2}).expand({1, 3, 1, 2}).contiguous();
  const at::Tensor y = apply_rope(x, table, 0, false);
  for (std::int64_t t = 0; t < 3; ++t) {
    EXPECT_NEAR(y[0][t][0][0].item<double>(), std::cos(static_cast<double>(t)), 1e-6);
    EXPECT_NEAR(y[0][t][0][1].item<double>(), std::sin(static_cast<double>(t)), 1e-6);
  }
}

// Elements j and j + D/2 are one complex number, turned by t * base^(-2j/D).
TEST(Rope, TurnsPairsHalfAHeadApartByTheirAngle) {
  constexpr std::int64_t kDim = 8;
  const RopeTable table = make_rope_table(40, kDim, kBase, at::kCPU);
  const at::Tensor x = random_normal({2, 5, 3, kDim}, 1);
  const at::Tensor y = apply_rope(x, table, 31, false);
  for (std::int64_t t = 0; t < 5; ++t) {
    for (std::int64_t j = 0; j < kDim / 2; ++j) {
      const double angle =
          static_cast<double>(31 + t) * std::pow(kBase, -2.0 * static_cast<double>(j) / kDim);
      const std::complex<double> before(x[1][t][2][j].item<double>(),
                                        x[1][t][2][j + kDim / 2].item<double>());
      const std::complex<double> after = before * std::polar(1.0, angle);
      EXPECT_NEAR(y[1][t][2][j].item<double>(), after.real(), 1e-5);
      EXPECT_NEAR(y[1][t][2][j + kDim / 2].item<double>(), after.imag(), 1e-5);
    }
  }
}

TEST(Rope, InverseTurnsBack) {
  const RopeTable table = make_rope_table(16, 8, kBase, at::kCPU);
  const at::Tensor x = random_normal({2, 9, 3, 8}, 1);
  EXPECT_LT(relative(apply_rope(apply_rope(x, table, 4, false), table, 4, true), x), 1e-6);
}

// A rotation is orthogonal: its backward pass is the inverse.
TEST(Rope, InverseIsTheBackwardPass) {
  const RopeTable table = make_rope_table(16, 4, kBase, at::kCPU);
  const at::Tensor x = random_normal({1, 3, 2, 4}, 1);
  const at::Tensor dy = random_normal({1, 3, 2, 4}, 2);
  const at::Tensor numeric = test::finite_difference(
      x, [&](const at::Tensor& v) { return (apply_rope(v, table, 2, false) * dy).sum().item<double>(); });
  EXPECT_LT(relative(apply_rope(dy, table, 2, true), numeric), 1e-3);  // the rotation itself is in fp32
}

TEST(Rope, ProductsDependOnTheDistanceAlone) {
  const RopeTable table = make_rope_table(64, 16, kBase, at::kCPU);
  const at::Tensor q = random_normal({1, 1, 1, 16}, 1);
  const at::Tensor k = random_normal({1, 1, 1, 16}, 2);
  const auto product = [&](std::int64_t i, std::int64_t j) {
    return (apply_rope(q, table, i, false) * apply_rope(k, table, j, false)).sum().item<double>();
  };
  EXPECT_NEAR(product(9, 4), product(50, 45), 1e-4);
  EXPECT_GT(std::abs(product(9, 4) - product(9, 5)), 1e-3);
}

TEST(Rope, KeepsBf16AndRoundsOnce) {
  const RopeTable table = make_rope_table(32, 8, kBase, at::kCPU);
  const at::Tensor x = random_normal({2, 9, 3, 8}, 1).to(at::kBFloat16);
  const at::Tensor y = apply_rope(x, table, 0, false);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(y, apply_rope(x.to(at::kFloat), table, 0, false).to(at::kBFloat16)));
}

TEST(Rope, TakesTransposedInputs) {
  const RopeTable table = make_rope_table(32, 8, kBase, at::kCPU);
  const at::Tensor x = random_normal({2, 3, 9, 8}, 1).transpose(1, 2);
  EXPECT_TRUE(at::equal(apply_rope(x, table, 1, false), apply_rope(x.contiguous(), table, 1, false)));
}

}  // namespace
}  // namespace kumiko
