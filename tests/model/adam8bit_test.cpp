// SPDX-License-Identifier: Apache-2.0
#include "framework/model/adam8bit.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;

at::Tensor after(UpdateRule& rule, at::IntArrayRef sizes, int steps) {
  at::Tensor value = at::zeros(sizes);
  const at::Tensor drift = random_normal(sizes, 5, 0.5);
  for (int t = 0; t < steps; ++t) {
    at::Tensor gradient = random_normal(sizes, 20 + static_cast<std::uint64_t>(t)) + drift;
    rule.apply(value, gradient, 0.01, 0.0);
  }
  return value;
}

TEST(Adam8bit, FollowsAdamWAsFarAsItsCodesAllow) {
  const AdamOptions options;
  const RuleSpec spec{"w", ParamRole::matrix, {64, 100}};
  Adam8bit quantized(options, spec), again(options, spec);
  AdamW exact(options, spec), once(options, spec);
  EXPECT_LT(test::relative(after(again, spec.sizes, 1), after(once, spec.sizes, 1)), 1e-6) << "nothing has been rounded yet";
  const double off = test::relative(after(quantized, spec.sizes, 30), after(exact, spec.sizes, 30));
  EXPECT_LT(off, 0.05);
  EXPECT_GT(off, 1e-5) << "the moments are not in 8 bits";
}

TEST(Adam8bitFactory, KeepsSmallParametersInFp32) {
  const Adam8bitFactory rules(ConfigNode::parse_text("{}", "r.yaml"));
  const RuleSpec small{"small", ParamRole::norm, {4095}}, large{"large", ParamRole::embedding, {64, 64}};
  EXPECT_EQ(rules.rule_nbytes(small), AdamW::nbytes_for(4095));
  EXPECT_EQ(rules.rule_nbytes(large), 2 * (4096 + 4 * 16) + 4);
  AdamW exact({}, small);
  EXPECT_TRUE(at::equal(after(*rules.make_rule(small), small.sizes, 4), after(exact, small.sizes, 4)));
  const Adam8bitFactory all(ConfigNode::parse_text("{min_8bit_size: 0}", "r.yaml"));
  EXPECT_LT(all.rule_nbytes(small), AdamW::nbytes_for(4095));
}

TEST(Adam8bitFactory, RefusesBadKeys) {
  for (const char* text : {"{min_8bit_size: -1}", "{min_8bit_size: many}", "{betas: [0.9]}", "{eps: 0}"}) {
    EXPECT_THROW(Adam8bitFactory(ConfigNode::parse_text(text, "r.yaml")), UsageError) << text;
  }
}

}  // namespace
}  // namespace kumiko
