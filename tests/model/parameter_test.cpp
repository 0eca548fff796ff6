// SPDX-License-Identifier: Apache-2.0
#include "framework/model/parameter.hpp"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

struct Three {
  Parameter a{"a", ParamRole::matrix, at::zeros({3, 5}), {}};
  Parameter b{"b", ParamRole::norm, at::zeros({1}, at::kBFloat16), {}};
  Parameter c{"c", ParamRole::factor, at::zeros({4, 4}), {}};
  std::vector<Parameter*> all() { return {&a, &b, &c}; }
};

TEST(GradBuffer, BindsFp32ViewsOfOneBuffer) {
  Three p;
  GradBuffer grads(p.all());
  for (const Parameter* parameter : p.all()) {
    EXPECT_EQ(parameter->grad.sizes(), parameter->value.sizes());
    EXPECT_EQ(parameter->grad.scalar_type(), at::kFloat);
    EXPECT_TRUE(parameter->grad.is_alias_of(grads.flat()));
    EXPECT_TRUE(parameter->grad.is_contiguous());
    EXPECT_EQ(parameter->grad.storage_offset() % 16, 0);  // 64 bytes
    EXPECT_EQ(parameter->grad.abs().max().item<float>(), 0.0F);
  }
  EXPECT_EQ(grads.nbytes(), 4 * (16 + 16 + 16));
}

TEST(GradBuffer, GivesEachParameterElementsOfItsOwn) {
  Three p;
  GradBuffer grads(p.all());
  p.a.grad.fill_(1.0);
  p.b.grad.fill_(2.0);
  p.c.grad.fill_(3.0);
  EXPECT_EQ(p.a.grad.sum().item<float>(), 15.0F);
  EXPECT_EQ(p.b.grad.sum().item<float>(), 2.0F);
  EXPECT_EQ(p.c.grad.sum().item<float>(), 48.0F);
  EXPECT_EQ(grads.flat().sum().item<float>(), 65.0F);  // nothing in the padding
  grads.flat().mul_(2.0);
  EXPECT_EQ(p.c.grad.sum().item<float>(), 96.0F);
  grads.zero();
  for (const Parameter* parameter : p.all()) EXPECT_EQ(parameter->grad.abs().max().item<float>(), 0.0F);
}

TEST(GradBuffer, NormIsThatOfAllGradients) {
  Three p;
  GradBuffer grads(p.all());
  p.a.grad[0][0] = 3.0;
  p.c.grad[1][2] = -4.0;
  EXPECT_NEAR(grads.norm(), 5.0, 1e-6);
}

TEST(GradBuffer, NamesTheFirstNonFiniteGradient) {
  Three p;
  GradBuffer grads(p.all());
  EXPECT_EQ(grads.first_non_finite(), "");
  p.c.grad[3][3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(grads.first_non_finite(), "c");
  p.b.grad[0] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(grads.first_non_finite(), "b");
}

TEST(GradBuffer, OfNothingIsEmpty) {
  GradBuffer grads({});
  EXPECT_EQ(grads.nbytes(), 0);
  EXPECT_EQ(grads.norm(), 0.0);
}

}  // namespace
}  // namespace kumiko
