// SPDX-License-Identifier: Apache-2.0
// What every codec has to hold, through QuantizedTensor.
#include <cmath>
#include <limits>

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/int4_codec.hpp"
#include "quant/quantized_tensor.hpp"
#include "tests/quant/quant_test_support.hpp"

namespace kumiko::quant {
namespace {

using test::hex_of;
using test::normal;
using test::same_bits;

QuantFormat plain(CodecKind codec, std::int64_t block_size = 64) {
  return {.codec = codec, .block_size = block_size, .double_quant = false};
}

at::Tensor codes_of(const at::Tensor& dense, CodecKind codec) {
  return QuantizedTensor::quantize(dense, plain(codec)).storage()[0];
}

// Twelfths of the block's largest: 0, 1/16, 2, 3, 4, 6, 8, 12, their negatives, and what rounds to both
// zeros.
TEST(Fp4, TakesHandCheckedCodes) {
  const at::Tensor dense =
      at::tensor({0.0f, 0.0625f, 2.0f, 3.0f, 4.0f, 6.0f, 8.0f, 12.0f,  //
                  -0.0625f, -2.0f, -3.0f, -4.0f, -6.0f, -8.0f, -12.0f, 0.02f, -0.02f, 10.01f});
  EXPECT_EQ(hex_of(codes_of(dense, CodecKind::fp4)), "016745239efcdab803");
  const at::Tensor restored = QuantizedTensor::quantize(dense, plain(CodecKind::fp4)).dequantize(at::kFloat);
  EXPECT_TRUE(at::allclose(restored.slice(0, 0, 15), dense.slice(0, 0, 15), 1e-6, 0.0));
  EXPECT_TRUE(restored.slice(0, 15, 17).eq(0).all().item<bool>());
  EXPECT_EQ(restored[17].item<float>(), 12.0f);
}

// Sevenths of the block's largest, which is 7: codes are 8 more than the number; a tie takes the lower one.
TEST(Int4, TakesHandCheckedCodes) {
  const at::Tensor dense =
      at::tensor({-7.0f, -6.0f, -5.0f, -4.0f, -3.0f, -2.0f, -1.0f, 0.0f, 1.0f,  2.0f, 3.0f,
                  4.0f,  5.0f,  6.0f,  7.0f,  -6.6f, 0.4f,  0.6f,  3.5f, -3.5f, 6.4f});
  EXPECT_EQ(hex_of(codes_of(dense, CodecKind::int4)), "123456789abcdef189b4e8");
  const at::Tensor restored = QuantizedTensor::quantize(dense, plain(CodecKind::int4)).dequantize(at::kFloat);
  EXPECT_TRUE(at::allclose(restored.slice(0, 0, 15), dense.slice(0, 0, 15), 1e-6, 0.0));
}

// Whatever is a rounding error below the block's largest.
TEST(Int4, HasNoLevelBelowMinusOne) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(kInt4Codebook.thresholds[0], -kInfinity);
  EXPECT_EQ(kInt4Codebook.floors[0], -kInfinity);
  EXPECT_EQ(kInt4Codebook.zero_code, 8);
}

class EveryCodec : public testing::TestWithParam<CodecKind> {};

INSTANTIATE_TEST_SUITE_P(Codecs, EveryCodec,
                         testing::Values(CodecKind::nf4, CodecKind::fp4, CodecKind::int4, CodecKind::int8),
                         [](const auto& param_info) { return std::string(codec_of(param_info.param).name); });

TEST_P(EveryCodec, KeepsWhatItHasDecoded) {
  for (const std::int64_t block_size : {32, 64, 4096}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const auto once =
          QuantizedTensor::quantize(normal({10001}, 3).to(dtype), plain(GetParam(), block_size));
      const auto twice = QuantizedTensor::quantize(once.dequantize(dtype), plain(GetParam(), block_size));
      EXPECT_TRUE(same_bits(once.dequantize(dtype), twice.dequantize(dtype))) << block_size << " " << dtype;
      EXPECT_TRUE(same_bits(once.storage()[1], twice.storage()[1])) << block_size << " " << dtype;
    }
  }
}

// The error of an ideal quantizer by fp64: the nearest of all the values that a block's codes decode to.
TEST_P(EveryCodec, TakesTheNearestValue) {
  const at::Tensor dense = normal({64 * 50 + 17}, 4);
  const auto value = QuantizedTensor::quantize(dense, plain(GetParam()));
  const at::Tensor restored = value.dequantize(at::kFloat);
  const at::Tensor levels =
      restored.slice(0, 0, 3200).view({50, 64}) / value.storage()[1].slice(0, 0, 50).unsqueeze(1);
  const at::Tensor all = std::get<0>(at::_unique(levels.mul(1e5).round().view({-1}))) / 1e5;
  const at::Tensor scale = value.storage()[1].slice(0, 0, 50).repeat_interleave(64);
  const at::Tensor x = dense.slice(0, 0, 3200) / scale;
  const at::Tensor best = std::get<0>((x.unsqueeze(1) - all.unsqueeze(0)).abs().min(1));
  const at::Tensor found = (x - restored.slice(0, 0, 3200) / scale).abs();
  EXPECT_LT((found - best).max().item<double>(), 1e-5);
}

TEST_P(EveryCodec, KeepsDoubledScalesCloseToPlainOnes) {
  const at::Tensor dense = normal({1 << 16}, 6);
  for (const std::int64_t block_size : {32, 256, 4096}) {
    const QuantFormat nested{.codec = GetParam(), .block_size = block_size, .double_quant = true};
    const at::Tensor a =
        QuantizedTensor::quantize(dense, plain(GetParam(), block_size)).dequantize(at::kFloat);
    const at::Tensor b = QuantizedTensor::quantize(dense, nested).dequantize(at::kFloat);
    EXPECT_LT(((a - b).norm() / dense.norm()).item<double>(), 0.004) << block_size;
  }
}

TEST_P(EveryCodec, DoesNotDependOnThreads) {
  const int threads = at::get_num_threads();
  const at::Tensor dense = normal({1000 * 1000 + 1}, 21);
  for (const std::optional<std::uint64_t> seed : {std::optional<std::uint64_t>{}, {9}}) {
    at::set_num_threads(1);
    const auto one = QuantizedTensor::quantize(dense, {.codec = GetParam()}, std::nullopt, seed);
    const at::Tensor restored = one.dequantize(at::kBFloat16);
    for (const int count : {2, 3}) {
      at::set_num_threads(count);
      const auto more = QuantizedTensor::quantize(dense, {.codec = GetParam()}, std::nullopt, seed);
      for (std::size_t i = 0; i < one.storage().size(); ++i)
        EXPECT_TRUE(same_bits(one.storage()[i], more.storage()[i])) << i;
      EXPECT_TRUE(same_bits(restored, one.dequantize(at::kBFloat16)));
    }
  }
  at::set_num_threads(threads);
}

struct Distortion {
  CodecKind codec;
  std::int64_t block_size;
  double relative;  // |error| / |x| of N(0, 1) in the 2-norm
};

// Expected: the nearest of the levels by a simulation in fp64 over 2^22 numbers.
TEST(Distortion, OfANormalDistributionIsThatOfAnIdealQuantizer) {
  const at::Tensor dense = normal({1 << 20}, 7);
  for (const Distortion& expected : {
           Distortion{CodecKind::nf4, 32, 0.08730},
           Distortion{CodecKind::nf4, 64, 0.09196},
           Distortion{CodecKind::nf4, 1024, 0.10420},
           Distortion{CodecKind::fp4, 64, 0.12194},
           Distortion{CodecKind::fp4, 1024, 0.14603},
           Distortion{CodecKind::int4, 64, 0.10762},
           Distortion{CodecKind::int4, 1024, 0.14230},
           Distortion{CodecKind::int8, 64, 0.005932},
           Distortion{CodecKind::int8, 1024, 0.007844},
       }) {
    const auto value = QuantizedTensor::quantize(dense, plain(expected.codec, expected.block_size));
    const at::Tensor error = value.dequantize(at::kFloat) - dense;
    EXPECT_NEAR((error.norm() / dense.norm()).item<double>(), expected.relative, 0.003 * expected.relative)
        << describe(value.format());
  }
}

}  // namespace
}  // namespace kumiko::quant
