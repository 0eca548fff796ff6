// SPDX-License-Identifier: Apache-2.0
#include "framework/model/adafactor.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;

AdafactorOptions parse(const std::string& text) { return AdafactorOptions::parse(ConfigNode::parse_text(text, "r.yaml")); }

double rms(const at::Tensor& x) { return std::sqrt(x.square().mean().item<double>()); }

struct Case {
  const char* yaml;
  std::vector<std::int64_t> sizes;
  double beta1 = 0.0, clip = 1.0, decay_rate = -0.8;
  bool scaled = false, relative = false;
};

class AdafactorFormula : public ::testing::TestWithParam<Case> {};

// Algorithms 4 and 5 of the paper in double; the second moment is formed whole.
TEST_P(AdafactorFormula, IsThePublishedOne) {
  const Case& c = GetParam();
  const double lr = 0.3, decay = 0.1;
  Adafactor rule(parse(c.yaml), {"w", ParamRole::matrix, c.sizes});
  at::Tensor value = random_normal(c.sizes, 1, 0.1);
  at::Tensor p = value.to(at::kDouble), v = at::zeros_like(p), m = at::zeros_like(p);
  for (int t = 1; t <= 12; ++t) {
    at::Tensor gradient = random_normal(c.sizes, 20 + static_cast<std::uint64_t>(t), 0.01 * t);
    const at::Tensor g = gradient.to(at::kDouble);
    const double forget = std::pow(t, c.decay_rate);
    v = (1 - forget) * v + forget * (g.square() + 1e-30);
    const at::Tensor estimate = c.sizes.size() == 2 ? v.mean(1, true) * v.mean(0, true) / v.mean() : v;
    at::Tensor u = g / estimate.sqrt();
    u = u / std::max(1.0, rms(u) / c.clip);
    m = c.beta1 * m + (1 - c.beta1) * u;
    const double step = (c.relative ? std::min(lr, 1.0 / std::sqrt(t)) : lr) * (c.scaled ? std::max(1e-3, rms(p)) : 1.0);
    p = p * (1 - lr * decay) - step * m;
    rule.apply(value, gradient, lr, decay);
  }
  EXPECT_LT((value - p).abs().max().item<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Cases, AdafactorFormula,
                         ::testing::Values(Case{"{}", {12, 7}}, Case{"{}", {19}}, Case{"{beta1: 0.9}", {12, 7}, 0.9},
                                           Case{"{clip_threshold: 0.5, decay_rate: -0.5}", {12, 7}, 0.0, 0.5, -0.5},
                                           Case{"{scale_parameter: true, relative_step: true}", {12, 7}, 0.0, 1.0, -0.8, true, true}));

TEST(Adafactor, KeepsRowsAndColumnsForAMatrix) {
  EXPECT_EQ(Adafactor::nbytes_for(parse("{}"), {30, 20}), 4 * 51);
  EXPECT_EQ(Adafactor::nbytes_for(parse("{beta1: 0.9}"), {30, 20}), 4 * 651);
  EXPECT_EQ(Adafactor::nbytes_for(parse("{}"), {30}), 4 * 31);
}

TEST(Adafactor, RotatesItsEstimateOfTheSecondMoments) {
  Adafactor rule(parse("{}"), {"b", ParamRole::factor, {4, 9}});
  at::Tensor value = at::zeros({4, 9}), gradient = random_normal({4, 9}, 1);
  rule.apply(value, gradient, 0.1, 0.0);
  const auto before = rule.state_tensors();   // rows, step, columns
  const at::Tensor estimate = before[0] * before[2] / before[0].mean();
  const at::Tensor squared = random_normal({6, 4}, 2).square();
  rule.transform([&](const at::Tensor& moment, int power) {
    EXPECT_EQ(power, 2);
    return at::mm(squared, moment);
  });
  const auto after = rule.state_tensors();
  EXPECT_EQ(after[0].sizes(), at::IntArrayRef({6, 1}));
  EXPECT_LT(test::relative(after[0] * after[2] / after[0].mean(), at::mm(squared, estimate)), 1e-5);
}

TEST(AdafactorFactory, RefusesToScaleByAParameterItDoesNotSee) {
  const AdafactorFactory rules(ConfigNode::parse_text("{scale_parameter: true}", "r.yaml"));
  RuleSpec spec{"w", ParamRole::matrix, {4, 8}};
  EXPECT_NO_THROW(rules.make_rule(spec));
  spec.sees_value = false;
  EXPECT_THROW(rules.make_rule(spec), UsageError);
}

TEST(Adafactor, RefusesBadKeys) {
  for (const char* text : {"{eps: 1e-30}", "{eps: [0, 1e-3]}", "{clip_threshold: 0}", "{decay_rate: 0.8}", "{beta1: 1.0}",
                           "{scale_parameter: 1}", "{relative_step: maybe}"}) {
    EXPECT_THROW(parse(text), UsageError) << text;
  }
}

}  // namespace
}  // namespace kumiko
