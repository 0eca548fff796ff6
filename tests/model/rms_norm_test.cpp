// SPDX-License-Identifier: Apache-2.0
#include "framework/model/rms_norm.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::autograd;
using test::random_normal;
using test::relative;

Parameter norm_weight(std::int64_t width, at::ScalarType dtype = at::kFloat) {
  return {"norm", ParamRole::norm, (1.0 + 0.3 * random_normal({width}, 9)).to(dtype), at::zeros({width})};
}

TEST(RmsNorm, EqualsHandCheckedNumbers) {
  // mean(3^2, 4^2) = 12.5; with eps 3.5 the root is 4.
  const RmsNormOutput out = rms_norm(test::matrix(1, {3.0F, 4.0F}), at::tensor({2.0F, 8.0F}), 3.5);
  EXPECT_TRUE(at::allclose(out.y, test::matrix(1, {1.5F, 8.0F})));
  EXPECT_TRUE(at::allclose(out.rstd, test::matrix(1, {0.25F})));
}

TEST(RmsNorm, BackwardEqualsAutogradAndAddsToTheWeightsGradient) {
  Parameter weight = norm_weight(24);
  const at::Tensor x = random_normal({7, 24}, 1, 3.0);
  const at::Tensor dy = random_normal({7, 24}, 2);
  const auto expected = autograd({x, weight.value}, dy, [](const auto& leaf) {
    return leaf[0] / (leaf[0].pow(2).mean(-1, true) + 1e-6).sqrt() * leaf[1];
  });
  const RmsNormOutput out = rms_norm(x, weight.value, 1e-6);
  EXPECT_LT(relative(rms_norm_backward(dy, x, out.rstd, weight, true), expected[0]), 1e-5);
  EXPECT_LT(relative(weight.grad, expected[1]), 1e-5);
  rms_norm_backward(dy, x, out.rstd, weight, true);
  EXPECT_LT(relative(weight.grad, 2.0 * expected[1]), 1e-5);
}

TEST(RmsNorm, LeavesTheWeightsGradientAloneUnlessItTrains) {
  Parameter weight = norm_weight(8);
  const at::Tensor x = random_normal({3, 8}, 1);
  const at::Tensor rstd = rms_norm(x, weight.value, 1e-6).rstd;
  const at::Tensor trained = rms_norm_backward(x, x, rstd, weight, true);
  weight.grad.fill_(7.0);
  EXPECT_TRUE(at::equal(rms_norm_backward(x, x, rstd, weight, false), trained));
  EXPECT_TRUE(at::equal(weight.grad, at::full({8}, 7.0F)));
  weight.grad = at::Tensor();
  EXPECT_TRUE(at::equal(rms_norm_backward(x, x, rstd, weight, true), trained));
}

TEST(RmsNorm, RecomputedOutputIsBitEqual) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Parameter weight = norm_weight(24);
    const at::Tensor x = random_normal({7, 24}, 1).to(dtype);
    const RmsNormOutput out = rms_norm(x, weight.value, 1e-6);
    EXPECT_TRUE(at::equal(rms_norm_from(x, out.rstd, weight.value), out.y));
  }
}

TEST(RmsNorm, Bf16KeepsStatisticsInFp32) {
  Parameter weight = norm_weight(512, at::kBFloat16);
  const at::Tensor x = random_normal({4, 512}, 1, 30.0).to(at::kBFloat16);
  const RmsNormOutput out = rms_norm(x, weight.value, 1e-6);
  EXPECT_EQ(out.y.scalar_type(), at::kBFloat16);
  const at::Tensor wide = x.to(at::kDouble);
  EXPECT_LT(relative(out.rstd, wide.pow(2).mean(-1, true).add(1e-6).rsqrt()),
            1e-6);  // bf16 sums would be off by 1e-3
  EXPECT_LT(relative(out.y, wide * out.rstd * weight.value.to(at::kDouble)), 0.004);
  const at::Tensor dx = rms_norm_backward(out.y, x, out.rstd, weight, true);
  EXPECT_EQ(dx.scalar_type(), at::kBFloat16);
  EXPECT_EQ(weight.grad.scalar_type(), at::kFloat);
}

TEST(RmsNorm, AZeroRowStaysZeroAndFinite) {
  Parameter weight = norm_weight(8);
  const at::Tensor x = at::zeros({2, 8});
  const RmsNormOutput out = rms_norm(x, weight.value, 1e-6);
  EXPECT_EQ(out.y.abs().max().item<float>(), 0.0F);
  EXPECT_TRUE(
      at::isfinite(rms_norm_backward(at::ones({2, 8}), x, out.rstd, weight, true)).all().item<bool>());
}

}  // namespace
}  // namespace kumiko
