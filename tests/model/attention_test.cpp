// SPDX-License-Identifier: Apache-2.0
#include "framework/model/attention.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;
using test::relative;

// softmax(q k^T / sqrt(D), where allowed) v; allowed [B, 1, T, S] bool.
at::Tensor textbook(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    const at::Tensor& allowed) {
  const std::int64_t repeat = q.size(1) / k.size(1);
  const at::Tensor keys = k.repeat_interleave(repeat, 1);
  const at::Tensor values = v.repeat_interleave(repeat, 1);
  const at::Tensor scores = at::matmul(q, keys.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  return at::matmul(scores.masked_fill(allowed.logical_not(), -1e30).softmax(-1), values);
}

at::Tensor causal(std::int64_t length) { return at::ones({1, 1, length, length}, at::kBool).tril(); }

struct Case {
  const char* name;
  std::int64_t groups, length, dim;
  bool masked;
};

class Attention : public ::testing::TestWithParam<Case> {
 protected:
  Attention()
      : q_(random_normal({2, 4, GetParam().length, GetParam().dim}, 1)),
        k_(random_normal({2, GetParam().groups, GetParam().length, GetParam().dim}, 2)),
        v_(random_normal({2, GetParam().groups, GetParam().length, GetParam().dim}, 3)),
        allowed_(causal(GetParam().length)) {
    if (!GetParam().masked) return;
    // Two documents a row, the second from the middle on.
    const std::int64_t length = GetParam().length;
    allowed_ = allowed_.repeat({2, 1, 1, 1});
    allowed_.narrow(2, length / 2, length - length / 2).narrow(3, 0, length / 2).fill_(false);
    mask_ = at::zeros(allowed_.sizes(), at::kFloat)
                .masked_fill(allowed_.logical_not(), -std::numeric_limits<double>::infinity());
  }
  at::Tensor q_, k_, v_, allowed_, mask_;
};

TEST_P(Attention, ForwardEqualsTheTextbook) {
  const at::Tensor expected = textbook(q_.to(at::kDouble), k_.to(at::kDouble), v_.to(at::kDouble), allowed_);
  EXPECT_LT(relative(attention(q_, k_, v_, mask_, true).out, expected), 1e-5);
}

TEST_P(Attention, BackwardEqualsAutogradOfTheTextbook) {
  const at::Tensor dout = random_normal(q_.sizes(), 4);
  const auto expected = test::autograd(
      {q_, k_, v_}, dout, [&](const auto& leaf) { return textbook(leaf[0], leaf[1], leaf[2], allowed_); });
  const AttentionSaved saved = attention(q_, k_, v_, mask_, true);
  const AttentionGrad grad = attention_backward(dout, q_, k_, v_, mask_, saved);
  EXPECT_LT(relative(grad.q, expected[0]), 1e-5);
  EXPECT_LT(relative(grad.k, expected[1]), 1e-5);
  EXPECT_LT(relative(grad.v, expected[2]), 1e-5);
}

TEST_P(Attention, Bf16IsNearFp32) {
  const auto low = [](const at::Tensor& t) { return t.to(at::kBFloat16); };
  const at::Tensor mask = mask_.defined() ? low(mask_) : mask_;
  const at::Tensor dout = random_normal(q_.sizes(), 4);
  const AttentionSaved high_saved = attention(q_, k_, v_, mask_, true);
  const AttentionSaved saved = attention(low(q_), low(k_), low(v_), mask, true);
  EXPECT_EQ(saved.out.scalar_type(), at::kBFloat16);
  EXPECT_LT(relative(saved.out, high_saved.out), 0.02);
  const AttentionGrad grad = attention_backward(low(dout), low(q_), low(k_), low(v_), mask, saved);
  const AttentionGrad high = attention_backward(dout, q_, k_, v_, mask_, high_saved);
  EXPECT_LT(relative(grad.q, high.q), 0.03);
  EXPECT_LT(relative(grad.k, high.k), 0.03);
  EXPECT_LT(relative(grad.v, high.v), 0.03);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Values(Case{"all_heads", 4, 7, 8, false},
                                           Case{"grouped", 2, 33, 8, false},
                                           Case{"one_key_head", 1, 65, 16, false},
                                           Case{"documents", 2, 18, 8, true}, Case{"long", 4, 600, 8, false}),
                         [](const auto& info) { return info.param.name; });

TEST(AttentionForward, OfOneTokenIsItsValue) {
  const at::Tensor q = random_normal({1, 2, 1, 4}, 1);
  const at::Tensor v = random_normal({1, 2, 1, 4}, 2);
  EXPECT_LT(relative(attention(q, q, v, {}, true).out, v), 1e-6);
}

TEST(AttentionForward, ATokenDoesNotSeeLaterOnes) {
  const at::Tensor q = random_normal({1, 2, 9, 4}, 1);
  const at::Tensor before = attention(q, q, q, {}, true).out.clone();
  at::Tensor changed = q.clone();
  changed.narrow(2, 5, 4).add_(3.0);
  const at::Tensor after = attention(changed, changed, changed, {}, true).out;
  EXPECT_TRUE(at::equal(after.narrow(2, 0, 5), before.narrow(2, 0, 5)));
  EXPECT_FALSE(at::equal(after.narrow(2, 5, 4), before.narrow(2, 5, 4)));
}

TEST(AttentionForward, WithoutCausalityANewTokenSeesAllKeys) {
  const at::Tensor q = random_normal({2, 4, 1, 8}, 1);
  const at::Tensor k = random_normal({2, 2, 11, 8}, 2);
  const at::Tensor v = random_normal({2, 2, 11, 8}, 3);
  const at::Tensor expected = textbook(q, k, v, at::ones({1, 1, 1, 11}, at::kBool));
  EXPECT_LT(relative(attention(q, k, v, {}, false).out, expected), 1e-5);
}

// An EOS (9) belongs to the document it ends.
TEST(DocumentMask, LetsATokenSeeItsOwnDocumentUpToItself) {
  const at::Tensor tokens = at::tensor({1, 9, 2, 3}, at::kLong).view({1, 4});
  const at::Tensor mask = document_mask(tokens, 9, at::kFloat);
  const float no = -std::numeric_limits<float>::infinity();
  const at::Tensor expected = at::tensor({0.0F, no, no, no,    //
                                          0.0F, 0.0F, no, no,  //
                                          no, no, 0.0F, no,    //
                                          no, no, 0.0F, 0.0F})
                                  .view({1, 1, 4, 4});
  EXPECT_TRUE(at::equal(mask, expected));
  EXPECT_EQ(document_mask(tokens, 9, at::kBFloat16).scalar_type(), at::kBFloat16);
  EXPECT_TRUE(
      at::equal(document_mask(tokens, 7, at::kFloat).isinf()[0][0], at::ones({4, 4}, at::kBool).triu(1)));
}

}  // namespace
}  // namespace kumiko
