// SPDX-License-Identifier: Apache-2.0
#include "quant/stochastic.hpp"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "quant/quantized_tensor.hpp"
#include "tests/quant/every_target.hpp"

namespace kumiko::quant {
namespace {

using test::normal;
using test::same_bits;

constexpr QuantFormat kNone{.codec = CodecKind::none};

class Rounding : public testing::TestWithParam<CodecKind> {
 protected:
  // Codec none is kept in bf16.
  static at::Tensor rounded(const at::Tensor& dense, std::optional<std::uint64_t> seed,
                            std::int64_t block_size = 64) {
    const QuantFormat format{.codec = GetParam(), .block_size = block_size, .double_quant = false};
    return QuantizedTensor::quantize(dense, format, at::kBFloat16, seed)
        .dequantize(at::kFloat)
        .to(at::kDouble);
  }
};

INSTANTIATE_TEST_SUITE_P(Codecs, Rounding,
                         testing::Values(CodecKind::none, CodecKind::nf4, CodecKind::fp4, CodecKind::int4,
                                         CodecKind::int8),
                         [](const auto& param_info) { return std::string(codec_of(param_info.param).name); });

// For each of 333 elements the upper neighbour's share of 2000 seeds is binomial: in standard deviations it
// stays below 5 (1e-4 of all seeds would fail by chance), and the mean of the elements below 5 / sqrt(333).
TEST_P(Rounding, TakesTheUpperNeighbourAsOftenAsIsUnbiased) {
  constexpr int kSeeds = 2000;
  const at::Tensor dense = normal({333}, 31);
  const at::Tensor exact = dense.to(at::kDouble);
  std::vector<at::Tensor> found;
  for (int seed = 0; seed < kSeeds; ++seed) found.push_back(rounded(dense, seed));
  const at::Tensor all = at::stack(found);
  const at::Tensor lower = std::get<0>(all.min(0));
  const at::Tensor upper = std::get<0>(all.max(0));
  EXPECT_TRUE(all.eq(lower).logical_or(all.eq(upper)).all().item<bool>());
  const at::Tensor nearest = rounded(dense, std::nullopt);
  EXPECT_TRUE(nearest.eq(lower).logical_or(nearest.eq(upper)).all().item<bool>());

  const at::Tensor gap = upper - lower;
  const at::Tensor is_moving = gap.gt(0);
  // Who never moves is a level itself, up to 15 of 2000 seeds.
  const at::Tensor still = is_moving.logical_not();
  const double widest = gap.max().item<double>();
  EXPECT_TRUE((exact - lower).abs().masked_select(still).lt(0.0075 * widest).all().item<bool>());
  EXPECT_GT(is_moving.sum().item<std::int64_t>(), 300);

  const at::Tensor p = ((exact - lower) / gap).masked_select(is_moving);
  EXPECT_TRUE(p.gt(-1e-4).logical_and(p.lt(1 + 1e-4)).all().item<bool>());
  const at::Tensor share = all.eq(upper).to(at::kDouble).mean(0).masked_select(is_moving);
  const at::Tensor deviation = (p * (1 - p)).clamp_min(1.0 / kSeeds).div(kSeeds).sqrt();
  const at::Tensor z = (share - p) / deviation;
  EXPECT_LT(z.abs().max().item<double>(), 5.0);
  EXPECT_LT(std::abs(z.mean().item<double>()), 5.0 / std::sqrt(333.0));
}

// Equal elements of one call: their upper share is binomial, and neighbours agree in half of the cases.
TEST_P(Rounding, IsIndependentBetweenElements) {
  constexpr std::int64_t kCount = 4096 * 16;
  at::Tensor dense = at::full({kCount}, 0.3717f);
  dense.view({-1, 4096}).select(1, 4095).fill_(1.0f);
  const at::Tensor found = rounded(dense, 3, 4096);
  const at::Tensor same = found.view({-1, 4096}).slice(1, 0, 4095).reshape({-1});
  const double upper = same.max().item<double>();
  const double lower = same.min().item<double>();
  const double p = (static_cast<double>(0.3717f) - lower) / (upper - lower);
  const double n = static_cast<double>(same.numel());
  const at::Tensor is_upper = same.eq(upper).to(at::kDouble);
  EXPECT_NEAR(is_upper.mean().item<double>(), p, 5 * std::sqrt(p * (1 - p) / n));
  for (const std::int64_t lag : {1, 2, 3, 16, 64}) {
    const at::Tensor both = is_upper.slice(0, lag) * is_upper.slice(0, 0, -lag);
    EXPECT_NEAR(both.mean().item<double>(), p * p, 5 * p * std::sqrt((1 - p * p) / n)) << "lag " << lag;
  }
}

TEST_P(Rounding, RepeatsWithItsSeedOnly) {
  const at::Tensor dense = normal({1000}, 2);
  EXPECT_TRUE(same_bits(rounded(dense, 4), rounded(dense, 4)));
  EXPECT_FALSE(same_bits(rounded(dense, 4), rounded(dense, 5)));
}

TEST_P(Rounding, HardlyMovesWhatIsALevel) {
  const at::Tensor level = rounded(normal({10000}, 8), std::nullopt).to(at::kFloat);
  const at::Tensor moved = rounded(level, 6).ne(level.to(at::kDouble)).sum();
  EXPECT_LE(moved.item<std::int64_t>(), 5);
}

TEST_P(Rounding, StaysWithinTheBlocksLargest) {
  const at::Tensor dense = normal({64 * 64}, 12);
  const at::Tensor largest = std::get<0>(dense.view({-1, 64}).abs().max(1)).to(at::kBFloat16).to(at::kDouble);
  const at::Tensor found = std::get<0>(rounded(dense, 1).view({-1, 64}).abs().max(1));
  EXPECT_TRUE(found.le(largest * 1.01).all().item<bool>());
}

TEST(StochasticDense, IsExactWhereNothingHasToBeRounded) {
  const at::Tensor dense = normal({100}, 1);
  const auto kept = [](const at::Tensor& from, at::ScalarType to) {
    return QuantizedTensor::quantize(from, kNone, to, 7).dequantize(to);
  };
  EXPECT_TRUE(same_bits(kept(dense, at::kFloat), dense));
  EXPECT_TRUE(same_bits(kept(dense.to(at::kBFloat16), at::kBFloat16), dense.to(at::kBFloat16)));
  EXPECT_TRUE(same_bits(kept(dense.to(at::kHalf), at::kFloat), dense.to(at::kHalf).to(at::kFloat)));
  EXPECT_TRUE(
      same_bits(kept(dense.to(at::kBFloat16).to(at::kFloat), at::kBFloat16), dense.to(at::kBFloat16)));
}

TEST(StochasticDense, KeepsNonFiniteNumbers) {
  const float infinity = std::numeric_limits<float>::infinity();
  const at::Tensor dense = at::tensor({infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), 0.0f});
  for (int seed = 0; seed < 20; ++seed) {
    const at::Tensor found = stochastic_to(dense, at::kBFloat16, seed).to(at::kFloat);
    EXPECT_EQ(found[0].item<float>(), infinity);
    EXPECT_EQ(found[1].item<float>(), -infinity);
    EXPECT_TRUE(std::isnan(found[2].item<float>()));
    EXPECT_EQ(found[3].item<float>(), 0.0f);
  }
}

class StochasticDenseEveryTarget : public test::EveryTarget {};

INSTANTIATE_TEST_SUITE_P(Targets, StochasticDenseEveryTarget, test::every_target(), test::target_name);

TEST_P(StochasticDenseEveryTarget, EqualsThePlainRule) {
  force(GetParam());
  const at::Tensor all = at::arange(0, 1LL << 32, 9973, at::kLong).to(at::kInt).view(at::kFloat);
  const at::Tensor dense = at::cat({all, normal({200001}, 1)});
  const at::Tensor found = stochastic_to(dense, at::kBFloat16, 11);
  const auto* from = dense.const_data_ptr<float>();
  const auto* to = found.const_data_ptr<at::BFloat16>();
  const std::uint64_t key = stochastic_key(11);
  for (std::int64_t i = 0; i < dense.numel(); ++i)
    ASSERT_EQ(to[i].x, stochastic_bf16_bits(from[i], stochastic_bits(key, i))) << i << ": " << from[i];
}

TEST(StochasticDense, RefusesFp16) {
  EXPECT_THROW(QuantizedTensor::quantize(at::ones({3}), kNone, at::kHalf, 7), UsageError);
}

}  // namespace
}  // namespace kumiko::quant
