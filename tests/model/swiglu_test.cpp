// SPDX-License-Identifier: Apache-2.0
#include "framework/model/swiglu.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;
using test::relative;

TEST(Swiglu, EqualsHandCheckedNumbers) {
  const double third = std::log(2.0);  // sigmoid(ln 2) = 2/3
  const at::Tensor gate = at::tensor({0.0F, static_cast<float>(third), static_cast<float>(-third)});
  const at::Tensor y = swiglu(gate, at::tensor({5.0F, 3.0F, 6.0F}));
  EXPECT_TRUE(
      at::allclose(y, at::tensor({0.0F, static_cast<float>(2.0 * third), static_cast<float>(-2.0 * third)})));
}

TEST(Swiglu, DoesNotChangeItsInputs) {
  const at::Tensor gate = random_normal({3, 5}, 1);
  const at::Tensor up = random_normal({3, 5}, 2);
  const at::Tensor gate_before = gate.clone();
  const at::Tensor up_before = up.clone();
  swiglu(gate, up);
  swiglu_backward(up, gate, up);
  EXPECT_TRUE(at::equal(gate, gate_before));
  EXPECT_TRUE(at::equal(up, up_before));
}

TEST(Swiglu, BackwardEqualsFiniteDifferences) {
  const at::Tensor gate = random_normal({3, 5}, 1, 2.0);
  const at::Tensor up = random_normal({3, 5}, 2);
  const at::Tensor dy = random_normal({3, 5}, 3);
  const auto total = [&](const at::Tensor& g, const at::Tensor& u) {
    return (dy.to(at::kDouble) * g / (1.0 + g.neg().exp()) * u).sum().item<double>();
  };
  const SwigluGrad grad = swiglu_backward(dy, gate, up);
  EXPECT_LT(relative(grad.gate, test::finite_difference(
                                    gate, [&](const at::Tensor& g) { return total(g, up.to(at::kDouble)); })),
            1e-5);
  EXPECT_LT(relative(grad.up, test::finite_difference(
                                  up, [&](const at::Tensor& u) { return total(gate.to(at::kDouble), u); })),
            1e-5);
}

TEST(Swiglu, Bf16IsNearFp32) {
  const at::Tensor gate = random_normal({9, 33}, 1).to(at::kBFloat16);
  const at::Tensor up = random_normal({9, 33}, 2).to(at::kBFloat16);
  const at::Tensor dy = random_normal({9, 33}, 3).to(at::kBFloat16);
  EXPECT_EQ(swiglu(gate, up).scalar_type(), at::kBFloat16);
  EXPECT_LT(relative(swiglu(gate, up), swiglu(gate.to(at::kFloat), up.to(at::kFloat))), 0.006);
  const SwigluGrad low = swiglu_backward(dy, gate, up);
  const SwigluGrad high = swiglu_backward(dy.to(at::kFloat), gate.to(at::kFloat), up.to(at::kFloat));
  EXPECT_LT(relative(low.gate, high.gate), 0.01);
  EXPECT_LT(relative(low.up, high.up), 0.01);
}

}  // namespace
}  // namespace kumiko
