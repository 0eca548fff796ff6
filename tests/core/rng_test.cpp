// SPDX-License-Identifier: Apache-2.0
#include "framework/core/rng.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

at::Tensor normal(std::int64_t count, double std, std::uint64_t seed) {
  at::Tensor out = at::full({count}, std::nan(""), at::kFloat);
  fill_normal(out, std, seed);
  return out;
}

// The share of a standard normal variable below `x`.
double normal_share_below(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// Mix13 of SplitMix64: the first outputs of the published generator with state 0 are these.
TEST(Mix64, AgreesWithPublishedSplitMix64) {
  constexpr std::uint64_t kGamma = 0x9e3779b97f4a7c15ULL;

  EXPECT_EQ(mix64(1 * kGamma), 0xe220a8397b1dcdafULL);
  EXPECT_EQ(mix64(2 * kGamma), 0x6e789e6aa1b965f4ULL);
  EXPECT_EQ(mix64(3 * kGamma), 0x06c45d188009454fULL);
}

TEST(StreamSeed, DiffersBySeedNameAndOrderOfLetters) {
  std::set<std::uint64_t> seeds;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    for (const char* name : {"", "a", "b", "ab", "ba", "aa", "model.norm.weight"})
      seeds.insert(stream_seed(seed, name));
  }

  EXPECT_EQ(seeds.size(), 700U);
  EXPECT_EQ(stream_seed(42, "a"), stream_seed(42, "a"));
}

TEST(FillNormal, HasTheMomentsOfANormalVariable) {
  constexpr std::int64_t kCount = 1 << 20;
  constexpr double kStd = 0.02;

  const at::Tensor x = normal(kCount, kStd, 7).to(at::kDouble) / kStd;

  // Five standard errors each: of the mean 1, of the moments sqrt(2), sqrt(15), sqrt(96), over sqrt(count).
  const double error = 5.0 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(x.mean().item<double>(), 0.0, error);
  EXPECT_NEAR(x.pow(2).mean().item<double>(), 1.0, error * std::sqrt(2.0));
  EXPECT_NEAR(x.pow(3).mean().item<double>(), 0.0, error * std::sqrt(15.0));
  EXPECT_NEAR(x.pow(4).mean().item<double>(), 3.0, error * std::sqrt(96.0));
}

TEST(FillNormal, HasTheDistributionOfANormalVariable) {
  constexpr std::int64_t kCount = 1 << 20;

  const at::Tensor x = normal(kCount, 1.0, 11);

  for (const double at_x : {-3.0, -2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5, 2.5}) {
    const double share = normal_share_below(at_x);
    const double tolerance = 5.0 * std::sqrt(share * (1.0 - share) / kCount);
    EXPECT_NEAR(x.lt(at_x).to(at::kDouble).mean().item<double>(), share, tolerance) << at_x;
  }
}

TEST(FillNormal, LeavesNeighboursUncorrelated) {
  constexpr std::int64_t kCount = 1 << 20;

  const at::Tensor x = normal(kCount, 1.0, 3).to(at::kDouble);

  for (const std::int64_t lag : {1, 2, 3, 64, 4096}) {
    const at::Tensor product = x.slice(0, 0, kCount - lag) * x.slice(0, lag, kCount);
    EXPECT_NEAR(product.mean().item<double>(), 0.0, 5.0 / std::sqrt(static_cast<double>(kCount))) << lag;
  }
}

TEST(FillNormal, DoesNotDependOnThreads) {
  constexpr std::int64_t kCount = (1 << 17) + 3;
  const int threads = at::get_num_threads();

  at::set_num_threads(1);
  const at::Tensor one = normal(kCount, 1.0, 5);
  at::set_num_threads(4);
  const at::Tensor four = normal(kCount, 1.0, 5);
  at::set_num_threads(threads);

  EXPECT_TRUE(at::equal(one, four));
}

TEST(FillNormal, FillsEverySizeAndOnlyThat) {
  const at::Tensor longest = normal(67, 1.0, 9);
  for (std::int64_t count = 0; count < 67; ++count) {
    at::Tensor buffer = at::full({count + 1}, 123.0, at::kFloat);
    at::Tensor out = buffer.slice(0, 0, count);

    fill_normal(out, 1.0, 9);

    EXPECT_TRUE(at::equal(out, longest.slice(0, 0, count))) << count;
    EXPECT_EQ(buffer[count].item<float>(), 123.0F) << count;
  }
  EXPECT_TRUE(longest.isfinite().all().item<bool>());
}

TEST(FillNormal, GivesOtherValuesToOtherStreams) {
  constexpr std::int64_t kCount = 1 << 16;
  const at::Tensor a = normal(kCount, 1.0, stream_seed(42, "layers.0.weight")).to(at::kDouble);
  const at::Tensor b = normal(kCount, 1.0, stream_seed(42, "layers.1.weight")).to(at::kDouble);

  EXPECT_NEAR((a * b).mean().item<double>(), 0.0, 5.0 / 256.0);
  EXPECT_LT((a == b).sum().item<std::int64_t>(), 10);
}

TEST(FillNormal, RefusesTensorsItCannotFill) {
  at::Tensor wrong_type = at::empty({4}, at::kDouble);
  at::Tensor strided = at::empty({4, 4}, at::kFloat).t();

  EXPECT_THROW(fill_normal(wrong_type, 1.0, 0), ShapeError);
  EXPECT_THROW(fill_normal(strided, 1.0, 0), ShapeError);
}

TEST(FillUniform, HasTheMomentsOfAUniformVariableAndStaysInside) {
  constexpr std::int64_t kCount = 1 << 20;
  at::Tensor x = at::empty({kCount}, at::kFloat);
  fill_uniform(x, 0.25, 7);
  EXPECT_LE(x.abs().max().item<float>(), 0.25F);
  EXPECT_GT(x.abs().min().item<float>(), 0.0F);

  const at::Tensor unit = x.to(at::kDouble) / 0.25;
  const double error = 5.0 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(unit.mean().item<double>(), 0.0, error / std::sqrt(3.0));
  EXPECT_NEAR(unit.pow(2).mean().item<double>(), 1.0 / 3.0, error * std::sqrt(4.0 / 45.0));
  EXPECT_NEAR(unit.pow(4).mean().item<double>(), 0.2, error * std::sqrt(16.0 / 225.0));
  const at::Tensor product = unit.narrow(0, 0, kCount - 1) * unit.narrow(0, 1, kCount - 1);
  EXPECT_NEAR(product.mean().item<double>(), 0.0, error / 3.0);
}

TEST(FillUniform, DependsOnSeedAndIndexAlone) {
  at::Tensor longer = at::empty({100000}, at::kFloat), shorter = at::empty({300}, at::kFloat), other = at::empty({300}, at::kFloat);
  fill_uniform(longer, 1.0, 3);
  fill_uniform(shorter, 1.0, 3);
  fill_uniform(other, 1.0, 4);
  EXPECT_TRUE(at::equal(longer.narrow(0, 0, 300), shorter));
  EXPECT_FALSE(at::equal(other, shorter));
}

}  // namespace
}  // namespace kumiko
