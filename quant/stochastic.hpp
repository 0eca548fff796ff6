// SPDX-License-Identifier: Apache-2.0
// Random numbers of stochastic rounding: by seed and element index only, whatever threads and vectors do.
#pragma once

#include <bit>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "framework/core/rng.hpp"

namespace kumiko::quant {

inline constexpr std::uint64_t kStochasticStride = 0x9e3779b97f4a7c15ULL;

constexpr std::uint64_t stochastic_key(std::uint64_t seed) noexcept {
  return mix64(seed + kStochasticStride);
}

// 32 random bits; two neighbours share a word, the even one its lower half.
constexpr std::uint32_t stochastic_bits(std::uint64_t key, std::int64_t index) noexcept {
  const auto i = static_cast<std::uint64_t>(index);
  const std::uint64_t word = mix64(key + (i / 2 + 1) * kStochasticStride);
  return static_cast<std::uint32_t>(i % 2 == 0 ? word : word >> 32);
}

// In [0, 1), a multiple of 2^-24.
constexpr float stochastic_unit(std::uint32_t bits) noexcept {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

// bf16 is the upper half of fp32, and its neighbours are equally far apart in fp32's bits.
constexpr std::uint16_t stochastic_bf16_bits(float x, std::uint32_t random) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  if ((bits & 0x7fffffff) == 0x7f800000) return static_cast<std::uint16_t>(bits >> 16);
  return static_cast<std::uint16_t>((bits + (random >> 16)) >> 16);
}

// Casts with stochastic rounding to bf16; exact where `dtype` holds every value of the source's. NaN and
// infinities stay; beyond bf16's largest number the upper neighbour is infinity. UsageError for a rounding to
// fp16. A new contiguous CPU tensor.
at::Tensor stochastic_to(const at::Tensor& dense, at::ScalarType dtype, std::uint64_t seed);

}  // namespace kumiko::quant
