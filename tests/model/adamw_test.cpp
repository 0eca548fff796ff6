// SPDX-License-Identifier: Apache-2.0
#include "framework/model/adamw.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/model/optimizer.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko {
namespace {

struct Fixture {
  Parameter matrix{"matrix", ParamRole::matrix, at::tensor({1.0F, -2.0F, 3.0F}), {}};
  Parameter norm{"norm", ParamRole::norm, at::tensor({0.5F}), {}};
  GradBuffer grads{{&matrix, &norm}};
  OptimizerOptions options;
  AdamWFactory rules{ConfigNode::parse_text("{}", "test")};

  Optimizer make() { return Optimizer(options, {&matrix, &norm}, rules); }
  void set_grad(float scale) {
    matrix.grad.copy_(at::tensor({0.1F, -0.2F, 0.3F}) * scale);
    norm.grad.copy_(at::tensor({0.05F}) * scale);
  }
};

// The update formula in double, written out.
struct ScalarAdamW {
  double p, m = 0.0, v = 0.0;
  int t = 0;
  void step(double g, double lr, double wd, double b1, double b2, double eps) {
    ++t;
    m = b1 * m + (1 - b1) * g;
    v = b2 * v + (1 - b2) * g * g;
    p -= lr * wd * p;
    p -= lr / (1 - std::pow(b1, t)) * m / (std::sqrt(v) / std::sqrt(1 - std::pow(b2, t)) + eps);
  }
};

TEST(AdamW, FollowsThePublishedFormula) {
  Fixture f;
  f.options.weight_decay = 0.1;
  f.options.lr_scale.norms = 0.5;
  Optimizer adamw = f.make();
  ScalarAdamW first{1.0}, norm{0.5};
  for (int t = 0; t < 7; ++t) {
    const float scale = 1.0F + static_cast<float>(t % 3);
    f.set_grad(scale);
    adamw.step(0.01);
    first.step(static_cast<double>(0.1F * scale), 0.01, 0.1, 0.9, 0.999, 1e-6);
    norm.step(static_cast<double>(0.05F * scale), 0.005, 0.0, 0.9, 0.999, 1e-6);   // norms do not decay
  }
  EXPECT_NEAR(f.matrix.value[0].item<double>(), first.p, 1e-6);
  EXPECT_NEAR(f.norm.value[0].item<double>(), norm.p, 1e-6);
}

TEST(AdamW, UpdatesBf16ParametersInFp32AndRoundsOnce) {
  Fixture f;
  f.matrix.value = f.matrix.value.to(at::kBFloat16);
  Optimizer adamw = f.make();
  ScalarAdamW first{1.0};
  f.set_grad(1.0F);
  adamw.step(0.01);
  first.step(static_cast<double>(0.1F), 0.01, 0.0, 0.9, 0.999, 1e-6);
  EXPECT_EQ(f.matrix.value.scalar_type(), at::kBFloat16);
  EXPECT_NEAR(f.matrix.value[0].item<double>(), first.p, std::ldexp(1.0, -9));
}

TEST(AdamW, ForgetStartsOneParameterAnew) {
  Fixture f;
  Optimizer adamw = f.make();
  f.set_grad(1.0F);
  adamw.step(0.01);
  adamw.forget("matrix");
  for (const auto& tensor : adamw.state_tensors("matrix")) EXPECT_EQ(tensor.abs().sum().item<float>(), 0.0F);
  EXPECT_NE(adamw.state_tensors("norm")[0].abs().sum().item<float>(), 0.0F);
}

TEST(AdamW, TransformMapsBothMoments) {
  Fixture f;
  Optimizer adamw = f.make();
  f.set_grad(1.0F);
  adamw.step(0.01);
  const auto before = adamw.state_tensors("matrix");
  const at::Tensor m = before[0].clone(), v = before[1].clone();
  adamw.transform("matrix", [](const at::Tensor& moment, int power) { return moment * (power == 1 ? 2.0 : 4.0); });
  EXPECT_TRUE(at::equal(adamw.state_tensors("matrix")[0], m * 2.0));
  EXPECT_TRUE(at::equal(adamw.state_tensors("matrix")[1], v * 4.0));
}

TEST(AdamW, ContinuesBitForBitAfterLoad) {
  Fixture a, b;
  Optimizer first = a.make(), second = b.make();
  for (int t = 0; t < 3; ++t) {
    a.set_grad(static_cast<float>(t));
    first.step(0.01);
  }
  test::MemoryState state;
  first.save(state);
  second.load(state);
  b.matrix.value.copy_(a.matrix.value);
  b.norm.value.copy_(a.norm.value);
  for (int t = 0; t < 3; ++t) {
    a.set_grad(1.5F);
    b.set_grad(1.5F);
    first.step(0.01);
    second.step(0.01);
  }
  EXPECT_TRUE(at::equal(a.matrix.value, b.matrix.value));
  EXPECT_TRUE(at::equal(a.norm.value, b.norm.value));
}

TEST(AdamW, RoundsMomentsToBf16WhereAsked) {
  const AdamWFactory rules(ConfigNode::parse_text("{state: bf16, betas: [0.9, 0.9]}", "test"));
  const auto rule = rules.make_rule({"w", ParamRole::matrix, {1}});
  EXPECT_EQ(rule->state_nbytes(), 2 + 2 + 4);
  at::Tensor value = at::full({1}, 1.0F);
  double p = 1.0, m = 0.0, v = 0.0;
  const auto bf16 = [](double x) { return static_cast<double>(static_cast<float>(c10::BFloat16(static_cast<float>(x)))); };
  for (int t = 1; t <= 5; ++t) {
    const auto g = static_cast<double>(0.3F * static_cast<float>(t));
    m = 0.9 * m + 0.1 * g;
    v = 0.9 * v + 0.1 * g * g;
    p -= 0.01 / (1 - std::pow(0.9, t)) * m / (std::sqrt(v) / std::sqrt(1 - std::pow(0.9, t)) + 1e-6);
    m = bf16(m);
    v = bf16(v);
    at::Tensor gradient = at::full({1}, static_cast<float>(g));
    rule->apply(value, gradient, 0.01, 0.0);
    EXPECT_NEAR(value.item<double>(), p, 1e-6);
  }
  EXPECT_EQ(rule->state_tensors()[1].item<double>(), v);
  EXPECT_THROW(AdamWFactory(ConfigNode::parse_text("{state: int8}", "test")), UsageError);
}

TEST(OptimizerOptionsParse, ReadsScalesAndLeavesTheRestToTheRule) {
  const ConfigNode node = ConfigNode::parse_text("{lr: 0.01, lr_scale: {embedding: 2.0}, betas: [0.8, 0.95]}", "r.yaml");
  const auto options = OptimizerOptions::parse(node);
  EXPECT_EQ(options.lr_scale.of(ParamRole::embedding), 2.0);
  EXPECT_EQ(options.lr_scale.of(ParamRole::factor), 1.0);
  EXPECT_THROW(node.finish(), UsageError);
  EXPECT_EQ(AdamOptions::parse(node).beta2, 0.95);
  EXPECT_NO_THROW(node.finish());
  EXPECT_THROW(AdamOptions::parse(ConfigNode::parse_text("{betas: [0.9]}", "r.yaml")), UsageError);
}

}  // namespace
}  // namespace kumiko
