// SPDX-License-Identifier: Apache-2.0
#include "framework/model/cross_entropy.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;
using test::relative;

Parameter make_head(std::int64_t vocab, std::int64_t width, at::ScalarType dtype = at::kFloat) {
  return {"lm_head.weight", ParamRole::head, random_normal({vocab, width}, 8).to(dtype),
          at::zeros({vocab, width})};
}

at::Tensor make_targets(std::int64_t rows, std::int64_t vocab, bool some_ignored) {
  at::Tensor targets = at::empty({rows}, at::kLong);
  for (std::int64_t i = 0; i < rows; ++i) {
    targets[i] = some_ignored && i % 5 == 2 ? kIgnoreTarget
                                            : static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(i)) %
                                                                        static_cast<std::uint64_t>(vocab));
  }
  return targets;
}

at::Tensor textbook(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets) {
  return at::cross_entropy_loss(at::mm(hidden, head.t()), targets, {}, at::Reduction::Sum, kIgnoreTarget);
}

TEST(HeadLoss, EqualsHandCheckedNumbers) {
  // Logits (0, ln 3) and (ln 3, 0): p(target) = 3/4 and 1/4.
  Parameter head{"head", ParamRole::head, test::matrix(2, {0.0F, 1.0F}), at::zeros({2, 1})};
  const float ln3 = std::log(3.0F);
  const at::Tensor hidden = test::matrix(2, {ln3, ln3});
  const HeadLoss loss = head_loss_with_grad(hidden, head, at::tensor({1, 0}, at::kLong), 2.0, true);
  EXPECT_EQ(loss.loss_sum.scalar_type(), at::kDouble);
  EXPECT_NEAR(loss.loss_sum.item<double>(), -std::log(0.75) - std::log(0.25), 1e-6);
  // 2 (p - onehot) W: rows 2 (3/4 - 1) and 2 * 3/4.
  EXPECT_TRUE(at::allclose(loss.dhidden, test::matrix(2, {-0.5F, 1.5F})));
  EXPECT_TRUE(at::allclose(head.grad, test::matrix(2, {-ln3, ln3})));
}

struct Case {
  const char* name;
  std::int64_t rows_over;  // beyond the rows of a chunk
  bool ignored;
};

class HeadLossChunks : public ::testing::TestWithParam<Case> {};

// 65536 words: chunks of 256 rows.
TEST_P(HeadLossChunks, EqualAutogradOfTheWholeBatch) {
  constexpr std::int64_t kVocab = 65536;
  const std::int64_t chunk = head_chunk_rows(kVocab);
  ASSERT_EQ(chunk, 256);
  const std::int64_t rows = chunk + GetParam().rows_over;
  const at::Tensor hidden = random_normal({rows, 6}, 1);
  Parameter head = make_head(kVocab, 6);
  const at::Tensor targets = make_targets(rows, kVocab, GetParam().ignored);
  at::Tensor leaf_hidden = hidden.clone().set_requires_grad(true);
  at::Tensor leaf_head = head.value.clone().set_requires_grad(true);
  const at::Tensor expected = textbook(leaf_hidden, leaf_head, targets);
  (0.25 * expected).backward();

  const HeadLoss loss = head_loss_with_grad(hidden, head, targets, 0.25, true);
  EXPECT_NEAR(loss.loss_sum.item<double>(), expected.item<double>(), 1e-5 * expected.item<double>());
  EXPECT_LT(relative(loss.dhidden, leaf_hidden.grad()), 1e-5);
  EXPECT_LT(relative(head.grad, leaf_head.grad()), 1e-5);
  EXPECT_EQ(head_loss(hidden, head, targets).loss_sum.item<double>(), loss.loss_sum.item<double>());
}

INSTANTIATE_TEST_SUITE_P(Borders, HeadLossChunks,
                         ::testing::Values(Case{"below", -1, false}, Case{"whole", 0, false},
                                           Case{"one_more", 1, true}, Case{"two_and_one", 257, true}),
                         [](const auto& info) { return info.param.name; });

TEST(HeadLoss, ChunkRowsBoundTheLogits) {
  EXPECT_EQ(head_chunk_rows(32000), 524);  // 64 MiB of fp32
  EXPECT_EQ(head_chunk_rows(100), 4096);
  EXPECT_EQ(head_chunk_rows(1 << 22), 64);
}

TEST(HeadLoss, OfIgnoredTargetsAloneIsZeroWithZeroGradients) {
  Parameter head = make_head(13, 4);
  const at::Tensor targets = at::full({5}, kIgnoreTarget, at::kLong);
  const HeadLoss loss = head_loss_with_grad(random_normal({5, 4}, 1), head, targets, 1.0, true);
  EXPECT_EQ(loss.loss_sum.item<double>(), 0.0);
  EXPECT_EQ(loss.dhidden.abs().max().item<float>(), 0.0F);
  EXPECT_EQ(head.grad.abs().max().item<float>(), 0.0F);
}

TEST(HeadLoss, LeavesTheHeadsGradientAloneUnlessItTrains) {
  Parameter head = make_head(13, 4);
  head.grad.fill_(3.0);
  const at::Tensor hidden = random_normal({5, 4}, 1);
  const at::Tensor targets = make_targets(5, 13, false);
  const at::Tensor frozen = head_loss_with_grad(hidden, head, targets, 1.0, false).dhidden;
  EXPECT_TRUE(at::equal(head.grad, at::full({13, 4}, 3.0F)));
  EXPECT_TRUE(at::equal(head_loss_with_grad(hidden, head, targets, 1.0, true).dhidden, frozen));
  EXPECT_FALSE(at::equal(head.grad, at::full({13, 4}, 3.0F)));
  EXPECT_FALSE(head_loss(hidden, head, targets).dhidden.defined());
}

TEST(HeadLoss, SurvivesLogitsThatWouldOverflowExp) {
  Parameter head{"head", ParamRole::head, test::matrix(2, {500.0F, -500.0F}), at::zeros({2, 1})};
  const HeadLoss loss =
      head_loss_with_grad(test::matrix(1, {1.0F}), head, at::tensor({1}, at::kLong), 1.0, true);
  EXPECT_NEAR(loss.loss_sum.item<double>(), 1000.0, 1e-3);
  EXPECT_TRUE(at::isfinite(loss.dhidden).all().item<bool>());
}

TEST(HeadLoss, Bf16IsNearFp32AndSumsInFp32) {
  Parameter low = make_head(61, 16, at::kBFloat16);
  Parameter high = make_head(61, 16);
  const at::Tensor hidden = random_normal({40, 16}, 1, 0.5);
  const at::Tensor targets = make_targets(40, 61, true);
  const HeadLoss a = head_loss_with_grad(hidden.to(at::kBFloat16), low, targets, 0.5, true);
  const HeadLoss b = head_loss_with_grad(hidden, high, targets, 0.5, true);
  EXPECT_NEAR(a.loss_sum.item<double>(), b.loss_sum.item<double>(), 0.01 * b.loss_sum.item<double>());
  EXPECT_EQ(a.dhidden.scalar_type(), at::kBFloat16);
  EXPECT_LT(relative(a.dhidden, b.dhidden), 0.03);
  EXPECT_EQ(low.grad.scalar_type(), at::kFloat);
  EXPECT_LT(relative(low.grad, high.grad), 0.03);
}

}  // namespace
}  // namespace kumiko
