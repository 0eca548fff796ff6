// SPDX-License-Identifier: Apache-2.0
// What every optimizer of the registry owes to the trainer, to methods and to checkpoints.
#include "framework/model/update_rule.hpp"

#include <array>
#include <set>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/model/optimizer.hpp"
#include "tests/support/memory_state.hpp"
#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;

struct Variant {
  const char* label;
  const char* yaml;
  double codes = 0.0;   // relative precision of its stored moments, where it is below fp32's
};

constexpr std::array kVariants = {
    Variant{"adamw", "{name: adamw}"},
    Variant{"adamw_bf16", "{name: adamw, state: bf16}", 0.01},
    Variant{"adam8bit", "{name: adam8bit}", 0.1},
    Variant{"adafactor", "{name: adafactor}"},
    Variant{"adafactor_first_moment", "{name: adafactor, beta1: 0.9, relative_step: true}"},
    Variant{"sgd", "{name: sgd}"},
    Variant{"sgd_nesterov", "{name: sgd, momentum: 0.9, nesterov: true}"},
    Variant{"sgd_dampened", "{name: sgd, momentum: 0.9, dampening: 0.5}"},
    Variant{"muon", "{name: muon}"},
    Variant{"muon_bf16", "{name: muon, ns_dtype: bf16, adjust_lr_fn: match_rms_adamw, nesterov: false}", 0.05},
    Variant{"column_norm", "{name: column_norm}"},
    Variant{"column_norm_momentum", "{name: column_norm, momentum: 0.9, length: euclidean}"},
};

OptimizerRegistry registry() {
  OptimizerRegistry result("optimizer");
  register_builtin_optimizers(result);
  return result;
}

// Of every role; with rows that no vector width divides, on both sides of adam8bit's threshold.
const std::array<RuleSpec, 6> kSpecs = {{{"matrix", ParamRole::matrix, {67, 93}},
                                         {"wide", ParamRole::matrix, {9, 41}},
                                         {"factor", ParamRole::factor, {93, 7}, at::kCPU, 1},
                                         {"embedding", ParamRole::embedding, {61, 33}, at::kCPU, 1},
                                         {"head", ParamRole::head, {61, 33}},
                                         {"norm", ParamRole::norm, {37}}}};

class EveryOptimizer : public ::testing::TestWithParam<Variant> {
 protected:
  const ConfigNode node_ = ConfigNode::parse_text(GetParam().yaml, "test");
  const OptimizerOptions options_ = OptimizerOptions::parse(node_);
  const std::unique_ptr<RuleFactory> rules_ = registry().make(options_.name, node_);

  // Steps [first, first + count) on a value, with gradients that follow from the step and the sizes.
  static void take(UpdateRule& rule, at::Tensor& value, int first, int count, double weight_decay = 0.0) {
    for (int t = first; t < first + count; ++t) {
      at::Tensor gradient = random_normal(value.sizes(), 100 + static_cast<std::uint64_t>(t));
      rule.apply(value, gradient, 0.01, weight_decay);
    }
  }
  double near() const { return GetParam().codes > 0.0 ? GetParam().codes : 1e-5; }
};

TEST_P(EveryOptimizer, ReadsEveryKeyOfItsBlock) { EXPECT_NO_THROW(node_.finish()); }

TEST_P(EveryOptimizer, HoldsTheBytesItSays) {
  for (const RuleSpec& spec : kSpecs) {
    SCOPED_TRACE(spec.name);
    const auto rule = rules_->make_rule(spec);
    std::int64_t held = 0;
    for (const at::Tensor& tensor : rule->state_tensors()) {
      EXPECT_TRUE(tensor.is_contiguous());
      held += static_cast<std::int64_t>(tensor.nbytes());
    }
    EXPECT_EQ(rule->state_nbytes(), held);
    EXPECT_EQ(rules_->rule_nbytes(spec), held);
  }
}

TEST_P(EveryOptimizer, ContinuesBitForBitAfterLoad) {
  for (const RuleSpec& spec : kSpecs) {
    SCOPED_TRACE(spec.name);
    const auto unbroken = rules_->make_rule(spec), resumed = rules_->make_rule(spec);
    at::Tensor value = random_normal(spec.sizes, 1);
    take(*unbroken, value, 0, 3);
    test::MemoryState state;
    unbroken->save(state);
    at::Tensor copy = value.clone();
    resumed->load(state);
    take(*unbroken, value, 3, 3);
    take(*resumed, copy, 3, 3);
    EXPECT_TRUE(at::equal(value, copy));
  }
}

// What a broadcast does after one rank has merged.
TEST_P(EveryOptimizer, ContinuesFromTheStateTensorsOfAnother) {
  for (const RuleSpec& spec : kSpecs) {
    SCOPED_TRACE(spec.name);
    const auto owner = rules_->make_rule(spec), other = rules_->make_rule(spec);
    at::Tensor value = random_normal(spec.sizes, 1), ignored = random_normal(spec.sizes, 2);
    take(*owner, value, 0, 3);
    take(*other, ignored, 7, 2);
    auto from = owner->state_tensors(), to = other->state_tensors();
    ASSERT_EQ(from.size(), to.size());
    for (std::size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
    at::Tensor copy = value.clone();
    take(*owner, value, 3, 2);
    take(*other, copy, 3, 2);
    EXPECT_TRUE(at::equal(value, copy));
  }
}

TEST_P(EveryOptimizer, IsAsNewAfterForgetting) {
  for (const RuleSpec& spec : kSpecs) {
    SCOPED_TRACE(spec.name);
    const auto used = rules_->make_rule(spec), fresh = rules_->make_rule(spec);
    at::Tensor value = random_normal(spec.sizes, 1), ignored = random_normal(spec.sizes, 2);
    take(*used, ignored, 5, 3);
    used->forget();
    at::Tensor copy = value.clone();
    take(*used, value, 0, 2);
    take(*fresh, copy, 0, 2);
    EXPECT_TRUE(at::equal(value, copy));
  }
}

TEST_P(EveryOptimizer, IsAsNewInOtherSizesAfterResizing) {
  for (const RuleSpec& spec : kSpecs) {
    if (spec.sizes.size() != 2 || spec.name == "wide") continue;
    SCOPED_TRACE(spec.name);
    RuleSpec small = spec;
    small.sizes[spec.output_dim == 1 ? 0 : 1] -= 2;
    const auto used = rules_->make_rule(spec), fresh = rules_->make_rule(small);
    at::Tensor value = random_normal(spec.sizes, 1);
    take(*used, value, 5, 2);
    used->resize(small.sizes);
    at::Tensor one = random_normal(small.sizes, 3), other = one.clone();
    take(*used, one, 0, 2);
    take(*fresh, other, 0, 2);
    EXPECT_TRUE(at::equal(one, other));
  }
}

TEST_P(EveryOptimizer, MovesNothingWithoutAGradientOrALearningRate) {
  for (const RuleSpec& spec : kSpecs) {
    SCOPED_TRACE(spec.name);
    const auto rule = rules_->make_rule(spec);
    const at::Tensor before = random_normal(spec.sizes, 1);
    at::Tensor value = before.clone(), none = at::zeros(spec.sizes), gradient = random_normal(spec.sizes, 2);
    rule->apply(value, none, 0.1, 0.0);
    EXPECT_TRUE(at::equal(value, before));
    rule->apply(value, gradient, 0.0, 0.5);
    EXPECT_TRUE(at::equal(value, before));
    gradient = random_normal(spec.sizes, 3);
    rule->apply(value, gradient, 0.01, 0.0);
    EXPECT_FALSE(at::equal(value, before));
    EXPECT_TRUE(at::isfinite(value).all().item<bool>());
  }
}

TEST_P(EveryOptimizer, DecaysBesideTheUpdateByTheShareAsked) {
  const double lr = 0.01, decay = 2.0;
  for (const RuleSpec& spec : kSpecs) {
    SCOPED_TRACE(spec.name);
    const auto decaying = rules_->make_rule(spec), plain = rules_->make_rule(spec);
    at::Tensor value = random_normal(spec.sizes, 1), shrunk = value * (1.0 - lr * decay);
    take(*decaying, value, 0, 1, decay);
    take(*plain, shrunk, 0, 1);
    EXPECT_TRUE(at::allclose(value, shrunk, 1e-6, 1e-7));
  }
}

TEST_P(EveryOptimizer, ForgetsNothingUnderASignedPermutation) {
  for (const RuleSpec& spec : kSpecs) {
    if (spec.role != ParamRole::factor && spec.role != ParamRole::matrix) continue;
    SCOPED_TRACE(spec.name);
    const at::Tensor order = at::arange(spec.sizes[0] - 1, -1, -1, at::kLong);
    const at::Tensor sign = at::ones({spec.sizes[0], 1});
    sign.slice(0, 0, spec.sizes[0], 2).fill_(-1.0F);
    const auto turn = [&](const at::Tensor& x, int power) { return x.index_select(0, order) * (power == 1 ? sign : sign.square()); };

    const auto rule = rules_->make_rule(spec), turned = rules_->make_rule(spec);
    at::Tensor value = random_normal(spec.sizes, 1), start = value.clone(), ignored = value.clone();
    take(*rule, value, 0, 4);
    take(*turned, ignored, 0, 4);
    turned->transform(turn);
    at::Tensor gradient = random_normal(spec.sizes, 50), turned_gradient = turn(gradient, 1);
    at::Tensor step = at::zeros(spec.sizes), turned_step = at::zeros(spec.sizes);
    rule->apply(step, gradient, 0.01, 0.0);
    turned->apply(turned_step, turned_gradient, 0.01, 0.0);
    EXPECT_LT(test::relative(turned_step, turn(step, 1)), near());
  }
}

TEST_P(EveryOptimizer, UpdatesBf16ParametersInFp32AndRoundsOnce) {
  const RuleSpec& spec = kSpecs[0];
  Parameter parameter{spec.name, spec.role, random_normal(spec.sizes, 1).to(at::kBFloat16), {}};
  GradBuffer grads({&parameter});
  Optimizer optimizer(options_, {&parameter}, *rules_);
  const auto rule = rules_->make_rule(spec);
  at::Tensor expected = parameter.value.to(at::kFloat);
  for (std::uint64_t t = 0; t < 3; ++t) {
    parameter.grad.copy_(random_normal(spec.sizes, 100 + t));
    optimizer.step(0.01);
    at::Tensor gradient = random_normal(spec.sizes, 100 + t);
    rule->apply(expected, gradient, 0.01, 0.0);
    expected = expected.to(at::kBFloat16).to(at::kFloat);
  }
  EXPECT_EQ(parameter.value.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(parameter.value.to(at::kFloat), expected));
}

TEST_P(EveryOptimizer, DoesNotDependOnTheNumberOfThreads) {
  const int threads = at::get_num_threads();
  const std::array<RuleSpec, 3> large = {{{"matrix", ParamRole::matrix, {391, 263}},
                                          {"factor", ParamRole::factor, {1021, 77}, at::kCPU, 1},
                                          {"norm", ParamRole::norm, {70001}}}};
  for (const RuleSpec& spec : large) {
    SCOPED_TRACE(spec.name);
    at::Tensor expected;
    for (const int count : {1, 2, 3}) {
      at::set_num_threads(count);
      const auto rule = rules_->make_rule(spec);
      at::Tensor value = random_normal(spec.sizes, 1);
      take(*rule, value, 0, 2, 0.1);
      if (!expected.defined()) expected = value;
      EXPECT_TRUE(at::equal(value, expected)) << count << " threads";
    }
  }
  at::set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(Variants, EveryOptimizer, ::testing::ValuesIn(kVariants), [](const auto& info) { return std::string(info.param.label); });

TEST(Optimizers, AreAllHeldToThis) {
  std::set<std::string> tried;
  for (const Variant& variant : kVariants) tried.insert(OptimizerOptions::parse(ConfigNode::parse_text(variant.yaml, "test")).name);
  for (const std::string& name : registry().names()) EXPECT_TRUE(tried.contains(name)) << name;
}

}  // namespace
}  // namespace kumiko
