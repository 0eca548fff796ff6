// SPDX-License-Identifier: Apache-2.0
#include "framework/model/muon.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;
using test::relative;

MuonOptions parse(const std::string& text) { return MuonOptions::parse(ConfigNode::parse_text(text, "r.yaml")); }

// The iteration acts on singular values alone: U p(p(...(S / |S|))) V^T, in double.
at::Tensor by_singular_values(const at::Tensor& matrix, int steps = 5) {
  const auto [u, s, vh] = at::linalg_svd(matrix.to(at::kDouble), /*full_matrices=*/false);
  at::Tensor x = s / s.norm();
  for (int i = 0; i < steps; ++i) x = 3.4445 * x - 4.7750 * x.pow(3) + 2.0315 * x.pow(5);
  return u.matmul(x.unsqueeze(1) * vh);
}

TEST(Orthogonalize, AppliesThePolynomialToTheSingularValues) {
  for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{40, 90}, {90, 40}, {33, 33}, {1, 20}, {20, 1}}) {
    const at::Tensor matrix = random_normal({rows, columns}, 5);
    EXPECT_LT(relative(orthogonalize(matrix, {}), by_singular_values(matrix)), 2e-5) << rows << " x " << columns;
  }
  const auto spectrum = std::get<1>(at::linalg_svd(orthogonalize(random_normal({40, 90}, 6), {})));
  EXPECT_GT(spectrum.min().item<double>(), 0.6);
  EXPECT_LT(spectrum.max().item<double>(), 1.3);
}

TEST(Orthogonalize, IsNearWithProductsInBf16) {
  const at::Tensor matrix = random_normal({40, 90}, 5);
  EXPECT_LT(relative(orthogonalize(matrix, parse("{ns_dtype: bf16}")), by_singular_values(matrix)), 0.05);
}

struct Case {
  const char* yaml;
  std::int64_t rows, columns;
  int output_dim;
  bool nesterov;
  double factor;
};

class MuonFormula : public ::testing::TestWithParam<Case> {};

TEST_P(MuonFormula, IsThePublishedOne) {
  const Case& c = GetParam();
  const double lr = 0.05, decay = 0.1, u = 0.95;
  Muon rule(parse(c.yaml), {"w", ParamRole::matrix, {c.rows, c.columns}, at::kCPU, c.output_dim});
  at::Tensor value = random_normal({c.rows, c.columns}, 1);
  at::Tensor p = value.to(at::kDouble), m = at::zeros_like(p);
  for (std::uint64_t t = 0; t < 4; ++t) {
    at::Tensor gradient = random_normal({c.rows, c.columns}, 20 + t);
    const at::Tensor g = gradient.to(at::kDouble);
    m = u * m + (1 - u) * g;
    p = p * (1 - lr * decay) - lr * c.factor * by_singular_values(c.nesterov ? (1 - u) * g + u * m : m);
    rule.apply(value, gradient, lr, decay);
  }
  EXPECT_LT((value - p).abs().max().item<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, MuonFormula,
    ::testing::Values(Case{"{}", 48, 12, 0, true, 2.0}, Case{"{}", 48, 12, 1, true, 1.0}, Case{"{nesterov: false}", 12, 48, 0, false, 1.0},
                      Case{"{}", 12, 48, 1, true, 2.0},
                      Case{"{adjust_lr_fn: match_rms_adamw}", 12, 49, 0, true, 0.2 * 7.0}));

TEST(MuonFactory, LeavesEmbeddingHeadAndVectorsToAdamW) {
  const MuonFactory rules(ConfigNode::parse_text("{betas: [0.9, 0.99]}", "r.yaml"));
  EXPECT_EQ(rules.rule_nbytes({"w", ParamRole::matrix, {4, 8}}), 4 * 32);
  EXPECT_EQ(rules.rule_nbytes({"b", ParamRole::factor, {4, 8}}), 4 * 32);
  for (const RuleSpec& spec : {RuleSpec{"embedding", ParamRole::embedding, {4, 8}}, RuleSpec{"head", ParamRole::head, {4, 8}}}) {
    EXPECT_EQ(rules.rule_nbytes(spec), 4 * 65);
    at::Tensor value = at::zeros({4, 8}), gradient = random_normal({4, 8}, 1);
    const at::Tensor sign = gradient.sign();
    rules.make_rule(spec)->apply(value, gradient, 0.1, 0.0);
    EXPECT_TRUE(at::allclose(value, -0.1 * sign, 1e-3));   // Adam's first step
  }
  EXPECT_EQ(rules.rule_nbytes({"norm", ParamRole::norm, {8}}), 4 * 17);
}

TEST(Muon, RefusesBadKeys) {
  for (const char* text : {"{momentum: 1.0}", "{ns_steps: 0}", "{ns_coefficients: [1, 2]}", "{adjust_lr_fn: none}", "{ns_dtype: fp16}",
                           "{nesterov: yes}"}) {
    EXPECT_THROW(parse(text), UsageError) << text;
  }
}

}  // namespace
}  // namespace kumiko
