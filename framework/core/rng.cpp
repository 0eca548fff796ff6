// SPDX-License-Identifier: Apache-2.0
#include "framework/core/rng.hpp"

#include <cmath>
#include <numbers>

#include <ATen/Parallel.h>

#include "framework/core/error.hpp"

namespace kumiko {

std::uint64_t stream_seed(std::uint64_t seed, std::string_view stream) noexcept {
  std::uint64_t hash = mix64(seed + 0x9e3779b97f4a7c15ULL);
  for (const char c : stream) hash = mix64(hash ^ static_cast<unsigned char>(c)) + 0x9e3779b97f4a7c15ULL;
  return mix64(hash);
}

namespace {

// In (0, 1]: 24 random bits, never zero, so that its logarithm is finite.
float unit(std::uint64_t bits) noexcept { return static_cast<float>((bits >> 40) + 1) * 0x1p-24F; }

void expect_fillable(const at::Tensor& out, const char* who) {
  KUMIKO_EXPECTS(out.is_cpu() && out.is_contiguous() && out.scalar_type() == at::kFloat, ShapeError, who,
                 " needs a contiguous fp32 CPU tensor, got ", out.scalar_type(), " on ", out.device());
}

}  // namespace

void fill_normal(at::Tensor& out, double std, std::uint64_t seed) {
  expect_fillable(out, "fill_normal");
  float* data = out.data_ptr<float>();
  const std::int64_t count = out.numel();
  const std::int64_t pairs = (count + 1) / 2;
  at::parallel_for(0, pairs, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto index = static_cast<std::uint64_t>(i);
      const float radius = std::sqrt(-2.0F * std::log(unit(mix64(seed ^ mix64(2 * index + 1)))));
      const float angle = 2.0F * std::numbers::pi_v<float> * unit(mix64(seed ^ mix64(2 * index + 2)));
      data[2 * i] = static_cast<float>(std) * radius * std::cos(angle);
      if (2 * i + 1 < count) data[2 * i + 1] = static_cast<float>(std) * radius * std::sin(angle);
    }
  });
}

void fill_uniform(at::Tensor& out, double bound, std::uint64_t seed) {
  expect_fillable(out, "fill_uniform");
  float* data = out.data_ptr<float>();
  const float step = static_cast<float>(bound) * 0x1p-24F;
  at::parallel_for(0, out.numel(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      // An odd number of at most 24 bits and a sign is exact in fp32, so that only the product rounds.
      const auto bits = static_cast<std::int64_t>(mix64(seed ^ mix64(static_cast<std::uint64_t>(i) + 1)) >> 40);
      data[i] = step * static_cast<float>(2 * bits + 1 - (std::int64_t{1} << 24));
    }
  });
}

}  // namespace kumiko
