// SPDX-License-Identifier: Apache-2.0
#include "framework/model/sgd.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko {
namespace {

SgdOptions parse(const std::string& text) { return SgdOptions::parse(ConfigNode::parse_text(text, "r.yaml")); }

struct Case {
  const char* yaml;
  double momentum, dampening;
  bool nesterov;
};

class SgdFormula : public ::testing::TestWithParam<Case> {};

// torch.optim.SGD's documentation, written out; the first average is the first gradient.
TEST_P(SgdFormula, IsTorchs) {
  const Case& c = GetParam();
  const double lr = 0.1, decay = 0.2;
  Sgd rule(parse(c.yaml), {"w", ParamRole::matrix, {1}});
  at::Tensor value = at::full({1}, 2.0F);
  double p = 2.0, b = 0.0;
  for (int t = 0; t < 6; ++t) {
    const double g = 0.5 - 0.25 * t;
    b = t == 0 ? g : c.momentum * b + (1.0 - c.dampening) * g;
    const double direction = c.momentum == 0.0 ? g : c.nesterov ? g + c.momentum * b : b;
    p = p * (1.0 - lr * decay) - lr * direction;
    at::Tensor gradient = at::full({1}, static_cast<float>(g));
    rule.apply(value, gradient, lr, decay);
    EXPECT_NEAR(value.item<double>(), p, 1e-6) << "step " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, SgdFormula,
                         ::testing::Values(Case{"{}", 0.0, 0.0, false}, Case{"{momentum: 0.9}", 0.9, 0.0, false},
                                           Case{"{momentum: 0.9, nesterov: true}", 0.9, 0.0, true},
                                           Case{"{momentum: 0.9, dampening: 0.5}", 0.9, 0.5, false}));

TEST(Sgd, KeepsNothingWithoutMomentum) {
  EXPECT_EQ(Sgd::nbytes_for(parse("{}"), 100), 0);
  EXPECT_EQ(Sgd::nbytes_for(parse("{momentum: 0.5}"), 100), 400);
  EXPECT_EQ(Sgd::nbytes_for(parse("{momentum: 0.5, dampening: 0.1}"), 100), 404);
}

TEST(Sgd, RefusesBadKeys) {
  for (const char* text : {"{momentum: 1.0}", "{momentum: -0.1}", "{dampening: 1.5}", "{nesterov: 1}", "{nesterov: true}",
                           "{momentum: 0.9, dampening: 0.1, nesterov: true}"}) {
    EXPECT_THROW(parse(text), UsageError) << text;
  }
}

}  // namespace
}  // namespace kumiko
