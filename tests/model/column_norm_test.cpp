// SPDX-License-Identifier: Apache-2.0
#include "framework/model/column_norm.hpp"

#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

TEST(ColumnNormalize, GivesTheWeightsOfEachOutputTheSameLength) {
  const at::Tensor rows = at::tensor({3.0F, 4.0F, 0.0F, 0.0F, 6.0F, 8.0F}).view({3, 2});
  at::Tensor euclidean = rows.clone(), rms = rows.clone(), columns = rows.t().contiguous();
  column_normalize(euclidean, 0, ColumnLength::euclidean);
  EXPECT_TRUE(at::allclose(euclidean, at::tensor({0.6F, 0.8F, 0.0F, 0.0F, 0.6F, 0.8F}).view({3, 2}), 1e-6));
  column_normalize(rms, 0, ColumnLength::rms);
  EXPECT_TRUE(at::allclose(rms, euclidean * std::sqrt(2.0), 1e-6));
  column_normalize(columns, 1, ColumnLength::euclidean);
  EXPECT_TRUE(at::allclose(columns, euclidean.t(), 1e-6));
}

TEST(ColumnNorm, FollowsThePublishedAlgorithm) {
  const std::int64_t rows = 3, columns = 5;
  const double beta = 0.9, lr = 0.02, decay = 0.1;
  ColumnNorm rule({beta, ColumnLength::rms}, {"head", ParamRole::head, {rows, columns}});
  at::Tensor value = test::random_normal({rows, columns}, 1);
  std::vector<double> p(rows * columns), m(rows * columns, 0.0);
  for (std::int64_t i = 0; i < rows * columns; ++i) p[i] = value.data_ptr<float>()[i];
  for (std::uint64_t t = 0; t < 6; ++t) {
    at::Tensor gradient = test::random_normal({rows, columns}, 10 + t);
    for (std::int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (std::int64_t c = 0; c < columns; ++c) {
        double& mean = m[r * columns + c];
        mean = beta * mean + (1 - beta) * static_cast<double>(gradient[r][c].item<float>());
        squares += mean * mean;
      }
      for (std::int64_t c = 0; c < columns; ++c) {
        double& x = p[r * columns + c];
        x = x * (1 - lr * decay) - lr * m[r * columns + c] / std::sqrt(squares / static_cast<double>(columns));
      }
    }
    rule.apply(value, gradient, lr, decay);
  }
  for (std::int64_t i = 0; i < rows * columns; ++i) EXPECT_NEAR(value.data_ptr<float>()[i], p[i], 2e-6);
}

TEST(ColumnNormFactory, KeepsMomentumForTheLastLayerAloneAndMovesVectorsByAdam) {
  const ColumnNormFactory rules(ConfigNode::parse_text("{}", "r.yaml"));
  EXPECT_EQ(rules.rule_nbytes({"w", ParamRole::matrix, {4, 8}}), 0);
  EXPECT_EQ(rules.rule_nbytes({"embedding", ParamRole::embedding, {4, 8}}), 0);
  RuleSpec last{"head", ParamRole::head, {4, 8}};
  last.is_last_layer = true;
  EXPECT_EQ(rules.rule_nbytes(last), 4 * 32);
  last.role = ParamRole::embedding;   // tied to it
  EXPECT_EQ(rules.rule_nbytes(last), 4 * 32);
  EXPECT_EQ(rules.rule_nbytes({"norm", ParamRole::norm, {8}}), 4 * 17);
  EXPECT_TRUE(rules.make_rule({"w", ParamRole::matrix, {4, 8}})->state_tensors().empty());
}

TEST(ColumnNormFactory, RefusesBadKeys) {
  for (const char* text : {"{momentum: 1.0}", "{head_momentum: -0.1}", "{length: l1}", "{betas: [0.9]}"}) {
    EXPECT_THROW(ColumnNormFactory(ConfigNode::parse_text(text, "r.yaml")), UsageError) << text;
  }
}

}  // namespace
}  // namespace kumiko
