// SPDX-License-Identifier: Apache-2.0
#include "quant/scale_codec.hpp"

#include <algorithm>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "quant/scale_kernels.hpp"
#include "tests/quant/quant_test_support.hpp"

namespace kumiko::quant {
namespace {

using test::lcg_values;
using test::nf4;
using test::normal;
using test::same_bits;

std::string map_digest(const std::array<float, 256>& map) {
  return test::sha256_of(at::from_blob(const_cast<float*>(map.data()), {256}, at::kFloat));
}

Scales encode_by_reference(const at::Tensor& scales) {
  Scales out = empty_scales(scales.numel(), true, at::kCPU);
  reference::scale_encode(scales, out);
  return out;
}

TEST(DynamicMap, HasThePublishedBits) {
  EXPECT_EQ(map_digest(signed_dynamic_map()).substr(0, 16), "e732639a65f497b4");
  EXPECT_EQ(map_digest(unsigned_dynamic_map()).substr(0, 16), "305f002cc11278fb");
}

TEST(DynamicMap, IsAscendingWithOneZero) {
  for (const auto* map : {&signed_dynamic_map(), &unsigned_dynamic_map()}) {
    EXPECT_TRUE(std::is_sorted(map->begin(), map->end()));
    EXPECT_EQ(std::count(map->begin(), map->end(), 0.0f), 1);
    EXPECT_EQ(std::adjacent_find(map->begin(), map->end()), map->end());
    EXPECT_EQ(map->back(), 1.0f);
  }
}

TEST(DynamicMap, StartsWhereItsSignDemands) {
  EXPECT_EQ(signed_dynamic_map()[0], -0.9929687381f);
  EXPECT_EQ(unsigned_dynamic_map()[0], 0.0f);
  EXPECT_FLOAT_EQ(unsigned_dynamic_map()[1], 3.25e-7f);
  EXPECT_FLOAT_EQ(unsigned_dynamic_map()[2], 7.75e-7f);
}

TEST(ScaleCodec, EncodesTheScalesOfTheLcgSequence) {
  const at::Tensor dense = lcg_values(4096);
  const auto value = QuantizedTensor::quantize(dense, nf4(64, true)).storage();
  EXPECT_EQ(value[2].item<float>(), 0.9838453531f);
  const auto* codes = value[1].const_data_ptr<std::uint8_t>();
  EXPECT_THAT(
      std::vector<int>(codes, codes + 16),
      testing::ElementsAre(62, 193, 63, 54, 196, 199, 195, 199, 199, 194, 48, 52, 192, 164, 190, 200));
  EXPECT_EQ(value[3].item<float>(), 0.0667249560f);
}

TEST(ScaleCodec, EqualsTheReferenceBitForBit) {
  for (const std::int64_t n : {0, 1, 2, 255, 256, 257, 4095, 4096, 4097, 50001}) {
    const at::Tensor scales = normal({n}, n).abs();
    const Scales found = encode_scales(scales);
    const Scales expected = encode_by_reference(scales);
    EXPECT_TRUE(same_bits(found.values, expected.values)) << n;
    EXPECT_TRUE(same_bits(found.offset, expected.offset)) << n;
    EXPECT_TRUE(same_bits(found.group_absmax, expected.group_absmax)) << n;
    at::Tensor decoded = at::empty({n}, at::kFloat);
    reference::scale_decode(found, decoded);
    EXPECT_TRUE(same_bits(decode_scales(found), decoded)) << n;
  }
}

TEST(ScaleCodec, TakesTheNearestEntryOfTheMap) {
  const at::Tensor scales = normal({1000}, 4).abs();
  const Scales value = encode_scales(scales);
  const at::Tensor map =
      at::from_blob(const_cast<float*>(signed_dynamic_map().data()), {256}, at::kFloat).to(at::kDouble);
  const at::Tensor absmax = value.group_absmax.repeat_interleave(256).slice(0, 0, 1000).to(at::kDouble);
  const at::Tensor wanted = (scales - value.offset).to(at::kDouble) / absmax;
  const at::Tensor distance = (wanted.unsqueeze(1) - map).abs();
  const at::Tensor chosen = distance.gather(1, value.values.to(at::kLong).unsqueeze(1)).squeeze(1);
  EXPECT_LT((chosen - std::get<0>(distance.min(1))).abs().max().item<double>(), 1e-7);
}

TEST(ScaleCodec, KeepsEqualScalesExactly) {
  for (const float scale : {0.0f, 0.37f, 1e-40f, 3e38f}) {
    const at::Tensor scales = at::full({700}, scale);
    EXPECT_TRUE(same_bits(decode_scales(encode_scales(scales)), scales)) << scale;
  }
}

TEST(ScaleCodec, HasAnErrorBelowTheWidestGapOfTheMap) {
  const at::Tensor scales = at::rand({4096}, at::detail::createCPUGenerator(2)) + 1.0;
  const at::Tensor error = (decode_scales(encode_scales(scales)) - scales).abs();
  EXPECT_LT(error.max().item<float>(), 0.5f * 0.0141f * 0.51f + 1e-6f);
}

TEST(ScaleCodec, DoesNotOverflowOnHugeScales) {
  at::Tensor scales = at::full({600}, 3e38f);
  scales[5] = 1e30f;
  const Scales value = encode_scales(scales);
  EXPECT_TRUE(decode_scales(value).isfinite().all().item<bool>());
  EXPECT_NEAR(value.offset.item<float>() / 3e38f, 599.0 / 600.0, 1e-5);
}

TEST(ScaleCodec, MakesAllScalesNonFiniteOfOne) {
  for (const float bad : {INFINITY, NAN}) {
    at::Tensor scales = at::ones({600}, at::kFloat);
    scales[300] = bad;
    EXPECT_FALSE(decode_scales(encode_scales(scales)).isfinite().any().item<bool>());
    EXPECT_TRUE(same_bits(encode_scales(scales).values, encode_by_reference(scales).values));
  }
}

TEST(ScaleCudaKernels, SayThatTheyAreNotBuilt) {
  Scales out;
  EXPECT_THROW(cuda::scale_encode(at::ones({1}), out), NotBuiltError);
  at::Tensor decoded;
  EXPECT_THROW(cuda::scale_decode(out, decoded), NotBuiltError);
}

}  // namespace
}  // namespace kumiko::quant
