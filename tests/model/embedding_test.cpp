// SPDX-License-Identifier: Apache-2.0
#include "framework/model/embedding.hpp"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;

Parameter make_table(std::int64_t vocab, std::int64_t width) {
  return {"embed", ParamRole::embedding, random_normal({vocab, width}, 1), at::zeros({vocab, width})};
}

TEST(Embedding, TakesTheRowsOfItsTokens) {
  const Parameter table = make_table(5, 3);
  const at::Tensor rows = embed(at::tensor({4, 0, 4}, at::kLong), table, at::kFloat);
  EXPECT_TRUE(at::equal(rows[0], table.value[4]));
  EXPECT_TRUE(at::equal(rows[1], table.value[0]));
  EXPECT_TRUE(at::equal(rows[2], table.value[4]));
  EXPECT_TRUE(at::equal(embed(at::tensor({2}, at::kLong), table, at::kBFloat16)[0],
                        table.value[2].to(at::kBFloat16)));
}

TEST(Embedding, BackwardAddsTheRowsOfRepeatedTokens) {
  Parameter table = make_table(4, 2);
  table.grad.fill_(1.0);
  embed_backward(test::matrix(3, {1.0F, 2.0F, 10.0F, 20.0F, 100.0F, 200.0F}),
                 at::tensor({3, 1, 3}, at::kLong), table);
  EXPECT_TRUE(at::equal(table.grad, test::matrix(4, {1.0F, 1.0F, 11.0F, 21.0F, 1.0F, 1.0F, 102.0F, 203.0F})));
}

// Few tokens often: any other order of the additions shows in the last bits.
TEST(Embedding, BackwardDoesNotDependOnTheThreads) {
  const int threads = at::get_num_threads();
  const at::Tensor dy = random_normal({3000, 200}, 2);
  const at::Tensor tokens = random_normal({3000}, 3).abs().mul(3).to(at::kLong).clamp_max(6);
  std::vector<at::Tensor> grads;
  for (const int count : {1, 2, 3, 4}) {
    at::set_num_threads(count);
    Parameter table = make_table(7, 200);
    embed_backward(dy, tokens, table);
    grads.push_back(table.grad);
  }
  at::set_num_threads(threads);
  for (const auto& grad : grads) EXPECT_TRUE(at::equal(grad, grads[0]));
  const at::Tensor exact = at::zeros({7, 200}, at::kDouble).index_add(0, tokens, dy.to(at::kDouble));
  EXPECT_LT(test::relative(grads[0], exact), 1e-5);
}

TEST(Embedding, BackwardTakesBf16AndStridedGradients) {
  Parameter table = make_table(4, 6);
  const at::Tensor dy = random_normal({6, 5}, 2).to(at::kBFloat16).t();
  const at::Tensor tokens = at::tensor({0, 3, 3, 1, 0}, at::kLong);
  embed_backward(dy, tokens, table);
  EXPECT_LT(test::relative(table.grad, at::zeros({4, 6}).index_add(0, tokens, dy.to(at::kFloat))), 1e-6);
}

TEST(Embedding, BackwardOfAFrozenTableDoesNothing) {
  Parameter table = make_table(4, 2);
  table.grad = at::Tensor();
  embed_backward(at::ones({1, 2}), at::tensor({0}, at::kLong), table);
  EXPECT_FALSE(table.grad.defined());
}

}  // namespace
}  // namespace kumiko
